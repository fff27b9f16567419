"""Splits the global batch over ranks and micro-batches; it is never rounded."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.errors import Problem
from launcher.recipe.finding import Place
from launcher.recipe.schema import TrainSection


@dataclass(frozen=True)
class BatchPlan:
    """Who carries how many sequences of one optimizer step."""

    global_batch_size: int
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: int
    """Sequences per rank per forward pass."""
    world_size: int
    gradient_accumulation_steps: int
    """Forward and backward passes per rank per optimizer step."""


BATCH_KEYS = ("train.global_batch_size", "train.micro_batch_size", "cluster")
"""The recipe keys that the split depends on."""


def plan_batch(train: TrainSection, world_size: int, place: Place) -> BatchPlan | Problem:
    """Return the split, or the problem with the nearest global batch sizes that do divide."""
    whole, micro = train.global_batch_size, train.micro_batch_size
    per_pass = micro * world_size
    if whole % per_pass:
        below = whole // per_pass * per_pass
        nearest = f"{below} or {below + per_pass}" if below else str(per_pass)
        ranks = f"{world_size} rank{'s' * (world_size > 1)}"
        message = (
            f"global_batch_size {whole} is not a multiple of {ranks} x "
            f"micro_batch_size {micro} = {per_pass}; use {nearest}"
        )
        return Problem(place(BATCH_KEYS[0]), BATCH_KEYS[0], message)
    return BatchPlan(whole, micro, world_size, whole // per_pass)
