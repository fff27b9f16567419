"""Counts optimizer steps: how many an epoch has, how many the run has, how many warm up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.errors import InputError, Problem
from launcher.recipe.defaults import WARMUP_RATIO
from launcher.recipe.schema import TrainSection


@dataclass(frozen=True)
class StepPlan:
    """The length of a run in optimizer steps."""

    num_samples: int
    """Training rows per epoch."""
    steps_per_epoch: int
    """The last window of an epoch may be partial, so this is rounded up."""
    total_steps: int
    warmup_steps: int


def plan_steps(train: TrainSection, num_samples: int, place: str = "recipe") -> StepPlan:
    """Return the step counts of a run over `num_samples` rows.

    Raises `InputError` where there are no rows or warm-up would last the whole run or longer.
    """
    if num_samples < 1:
        raise InputError(Problem(place, "data.train", "has 0 rows; need at least 1."))
    per_epoch = math.ceil(num_samples / train.global_batch_size)
    total = train.max_steps or _ceil((train.num_epochs or 0) * per_epoch)
    warmup = warmup_steps(train, total)
    if warmup and warmup >= total:
        raise InputError(warmup_problem(warmup, total, place))
    return StepPlan(num_samples, per_epoch, total, warmup)


def warmup_steps(train: TrainSection, total_steps: int) -> int:
    """Return the steps of linear warm-up of a run of `total_steps`."""
    if train.warmup_steps is not None:
        return train.warmup_steps
    ratio = WARMUP_RATIO if train.warmup_ratio is None else train.warmup_ratio
    # A run of one or two steps has no room for the default share, rounded up, to be all of it.
    return min(_ceil(ratio * total_steps), max(total_steps - 1, 0))


def warmup_problem(warmup: int, total_steps: int, place: str) -> Problem:
    """Return the problem of a warm-up that leaves no step at the full rate."""
    message = f"warmup_steps {warmup} is not below the total of {total_steps} steps."
    return Problem(place, "train.warmup_steps", message, "Shorten the warm-up or train longer.")


def _ceil(value: float) -> int:
    """Round up, but take 3 x 0.1 x 10 for 3 as the user does, not for the float just above it."""
    nearest = round(value)
    return nearest if math.isclose(value, nearest, rel_tol=1e-9) else math.ceil(value)
