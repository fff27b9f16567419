"""The rate that the engine really used at every step, against the closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import records, run_folder, train

PEAK, WARMUP, TOTAL = 3.0e-4, 3, 10


def expected(schedule: str, step: int) -> float:
    """Written anew from the definition: `step` counts from 1, as in the records."""
    if step <= WARMUP:
        return PEAK * step / WARMUP
    left = (TOTAL - step + 1) / (TOTAL - WARMUP)
    if schedule == "cosine":
        return PEAK * (1 - math.cos(math.pi * left)) / 2
    return PEAK * left


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rate_at_every_step(
    schedule: str,
    world_size: int,
    tmp_path: Path,
    tiny_recipe: Callable[..., dict[str, Any]],
) -> None:
    """A scheduler handed to Accelerate would step once a rank and reach zero half-way."""
    sizes = {"schedule": schedule, "learning_rate": PEAK, "warmup_steps": WARMUP}
    recipe = tiny_recipe(
        train={**sizes, "max_steps": TOTAL, "micro_batch_size": 2},
    )
    reports = train(recipe, tmp_path, world_size)
    rates = {step: expected(schedule, step) for step in range(1, TOTAL + 1)}
    assert records(run_folder(recipe), "learning_rate") == pytest.approx(rates, rel=1e-12)
    for report in reports:
        assert report.learning_rates == pytest.approx(list(rates.values()), rel=1e-12)
