"""The trained tensors of a checkpoint, whole, one at a time, without an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from launcher.checkpoint.fragments import BUFFER, WEIGHT, SavedTensors


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is needed."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


def held(tensor: Tensor) -> LazyTensor:
    """Wrap a tensor that is in memory, or mapped into it, already."""
    return LazyTensor(tuple(tensor.shape), lambda: tensor)


def trained_tensors(saved: SavedTensors) -> Mapping[str, LazyTensor]:
    """Return the tensors of a checkpoint by their name in the trained model.

    Weights are the float32 masters. Buffers are among them; names decide what is exported.
    """
    weights = {
        name: LazyTensor(shape, partial(saved.whole, WEIGHT, name))
        for name, shape in saved.shapes.items()
    }
    return weights | {name: held(saved.buffer(name)) for name in saved.names(BUFFER)}
