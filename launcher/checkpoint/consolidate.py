"""The trained tensors of a DeepSpeed checkpoint, whole, one at a time, without an engine.

What DeepSpeed writes is pickled, and reading a pickle can run code: only a checkpoint whose
manifest verifies may come here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from launcher.checkpoint.manifest import ENGINE_TAG
from launcher.errors import TrainingError

MODEL_STATES = "mp_rank_00_model_states.pt"


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is needed."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


def held(tensor: Tensor) -> LazyTensor:
    """Wrap a tensor that is in memory, or mapped into it, already."""
    return LazyTensor(tuple(tensor.shape), lambda: tensor)


def trained_tensors(checkpoint: Path, zero_stage: int) -> Mapping[str, LazyTensor]:
    """Return the tensors of a committed checkpoint by their name in the trained model.

    Up to ZeRO-2 every rank has the whole module, so rank 0's file is mapped into memory. At ZeRO-3
    each tensor is put together from the float32 master shards of all ranks, when it is loaded.
    Buffers of quantised layers and the like may be among them; names decide what is exported.
    """
    if zero_stage == 3:
        return _from_shards(checkpoint)
    path = checkpoint / ENGINE_TAG / MODEL_STATES
    if not path.is_file():
        raise TrainingError(f"{path}: missing, so the checkpoint has no weights.")
    # Pickled by DeepSpeed: weights_only would refuse its own classes.
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    return {
        name: held(tensor) for name, tensor in state["module"].items() if isinstance(tensor, Tensor)
    }


def _from_shards(checkpoint: Path) -> dict[str, LazyTensor]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        # Frozen tensors are not in the files of adapters, and full fine-tuning has none.
        state = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint), tag=ENGINE_TAG, exclude_frozen_parameters=True, lazy_mode=True
        )
    return {
        name: LazyTensor(tuple(tensor.shape), tensor.contiguous) for name, tensor in state.items()
    }
