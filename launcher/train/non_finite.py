"""Finds the NaN or infinity in a step: whether loss or gradient, on which ranks, in which rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.data.sampler import FILLER, Window, micro_batches

Cause = Literal["loss", "gradient"]

SMALL_TENSOR = 1 << 20
"""Elements; looking at a gradient of this size costs nothing beside a backward pass."""


@dataclass(frozen=True)
class NonFinite:
    """Why the update of a step was skipped; equal on all ranks."""

    cause: Cause
    loss: float
    """Sum of the losses of the step, as it came out."""
    sample_ids: tuple[int, ...]
    """Of the step."""
    seen: Mapping[int, tuple[int, ...]]
    """Rank -> sample ids of its micro-batches that it was seen in. Empty where no rank saw it: a
    gradient can be bad in a single tensor, or only once it is summed."""


class NumberWatch:
    """Notes which micro-batches of this rank gave numbers that are not finite.

    The notes stay on the device, since reading one would wait for the micro-batch. They are asked
    for when the step is over, and only where something is wrong.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._device = device
        self._bad: dict[Cause, Tensor] = {}
        self._micro_step = 0
        _sentinel(module).register_hook(self._look)

    def start(self, num_micro_batches: int) -> None:
        """Begin a step with nothing noted."""
        self._bad = {
            "loss": torch.zeros(num_micro_batches, dtype=torch.uint8, device=self._device),
            "gradient": torch.zeros(num_micro_batches, dtype=torch.uint8, device=self._device),
        }

    def loss(self, micro_step: int, loss_sum: Tensor) -> Tensor:
        """Return the loss of a micro-batch for its backward pass; a bad one spoils all gradients.

        An infinite loss may have finite gradients: that of a square is linear. NaN in them reaches
        all ranks with the reduction, so that every engine skips the update.
        """
        self._micro_step = micro_step
        is_finite = torch.isfinite(loss_sum.detach())
        self._bad["loss"][micro_step] = ~is_finite
        return loss_sum * torch.where(is_finite, 1.0, math.nan)

    def _look(self, gradient: Tensor) -> None:
        self._bad["gradient"][self._micro_step] = ~torch.isfinite(gradient).all()

    def find(
        self, window: Window, loss: float, *, micro_batch_size: int, world_size: int
    ) -> NonFinite:
        """Ask all ranks what they noted; all of them call this, or none."""
        cause: Cause = "gradient" if math.isfinite(loss) else "loss"
        noted = [torch.empty_like(self._bad[cause]) for _ in range(world_size)]
        dist.all_gather(noted, self._bad[cause])
        seen: dict[int, tuple[int, ...]] = {}
        for rank, flags in enumerate(noted):
            batches = micro_batches(window.sample_ids, micro_batch_size, rank, world_size)
            bad = [ids for ids, flag in zip(batches, flags.tolist(), strict=True) if flag]
            if bad:
                seen[rank] = tuple(int(i) for ids in bad for i in ids if i != FILLER)
        return NonFinite(cause, loss, tuple(window.sample_ids.tolist()), seen)


def _sentinel(module: nn.Module) -> nn.Parameter:
    """Return the trainable tensor to look at: of those near the input the first small one.

    What goes bad in a backward pass goes bad in all that lies below, so this one tells.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    small = (p for p in trainable if getattr(p, "ds_numel", p.numel()) <= SMALL_TENSOR)
    return next(small, trainable[0])
