"""The learning rate as a closed form of the optimizer step: no state, nothing to restore.

Steps count from 0. Warm-up rises linearly, and its last step reaches the peak, so that no step is
spent at rate zero. Linear and cosine fall from the peak at the first step after warm-up towards
the minimum, which they would reach one step after the last (as transformers' schedules do). `wsd`
is the warm-up-stable-decay schedule of Hu et al. 2024 (arXiv 2404.06395) with a linear decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from launcher.recipe.schema import TrainSection


def learning_rate_at(
    train: TrainSection, step: int, *, warmup_steps: int, total_steps: int
) -> float:
    """Return the rate of 0-based optimizer step `step` of `total_steps`."""
    assert train.learning_rate is not None, "the resolved recipe has a learning rate"
    if step < warmup_steps:
        return train.learning_rate * (step + 1) / warmup_steps
    floor = train.min_learning_rate_ratio
    shape = SHAPES[train.schedule](step, warmup_steps, total_steps, train.decay_ratio)
    return train.learning_rate * (floor + (1.0 - floor) * shape)


def _constant(step: int, warmup_steps: int, total_steps: int, decay_ratio: float) -> float:
    return 1.0


def _linear(step: int, warmup_steps: int, total_steps: int, decay_ratio: float) -> float:
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def _cosine(step: int, warmup_steps: int, total_steps: int, decay_ratio: float) -> float:
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * share))


def _warmup_stable_decay(
    step: int, warmup_steps: int, total_steps: int, decay_ratio: float
) -> float:
    decay_steps = max(1, math.ceil(decay_ratio * total_steps))
    return min(1.0, (total_steps - step) / decay_steps)


SHAPES: dict[str, Callable[[int, int, int, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _warmup_stable_decay,
}
