"""The closed form of the learning rate against transformers' schedulers and its own definition."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from launcher.recipe.schema import TrainSection
from launcher.train.schedule import learning_rate_at

PEAK = 2.0e-4


def rates(schedule: str, warmup_steps: int, total_steps: int, **more: float) -> list[float]:
    train = TrainSection.model_validate(
        {
            "schedule": schedule,
            "learning_rate": PEAK,
            "max_steps": total_steps,
            "global_batch_size": 1,
            "micro_batch_size": 1,
            **more,
        }
    )
    return [
        learning_rate_at(train, step, warmup_steps=warmup_steps, total_steps=total_steps)
        for step in range(total_steps)
    ]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 7), (3, 20), (1, 2), (0, 1)])
def test_equals_transformers_after_warmup(
    name: str, theirs: object, warmup_steps: int, total_steps: int
) -> None:
    """Ours rises one step earlier, so that no step is spent at rate zero; then they are equal."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = theirs(optimizer, warmup_steps, total_steps)  # type: ignore[operator]
    expected = []
    for _ in range(total_steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = rates(name, warmup_steps, total_steps)
    assert ours[warmup_steps:] == pytest.approx(expected[warmup_steps:], rel=1e-12)
    assert ours[:warmup_steps] == pytest.approx(expected[1 : warmup_steps + 1], rel=1e-12)


def test_wsd_is_flat_then_falls_linearly() -> None:
    ours = rates("wsd", 2, 10, decay_ratio=0.4)
    assert ours[1:7] == [PEAK] * 6
    assert ours[7:] == pytest.approx([PEAK * left / 4 for left in (3, 2, 1)])


def test_constant_and_minimum() -> None:
    assert rates("constant", 2, 5) == [PEAK / 2, PEAK, PEAK, PEAK, PEAK]
    ours = rates("cosine", 0, 1000, min_learning_rate_ratio=0.1)
    assert min(ours) == pytest.approx(0.1 * PEAK, rel=1e-3)
    assert all(math.isfinite(rate) and rate > 0 for rate in ours)
