"""Batch split and step counts, against brute force and closed forms."""

from __future__ import annotations

import math
import re

import pytest

from launcher.errors import InputError, Problem
from launcher.recipe.batch import BatchPlan, plan_batch
from launcher.recipe.schema import TrainSection
from launcher.recipe.steps import plan_steps


def train(**keys: object) -> TrainSection:
    return TrainSection.model_validate({"global_batch_size": 64, "micro_batch_size": 4, **keys})


def test_the_split_multiplies_back_or_names_the_nearest_that_do() -> None:
    for whole in range(1, 40):
        for micro in range(1, 6):
            for ranks in range(1, 6):
                section = train(global_batch_size=whole, micro_batch_size=micro)
                plan = plan_batch(section, ranks, lambda key: "f:1")
                valid = {micro * ranks * steps for steps in range(1, 41)}
                if isinstance(plan, BatchPlan):
                    steps = plan.gradient_accumulation_steps
                    assert steps * plan.micro_batch_size * plan.world_size == whole
                else:
                    assert whole not in valid
                    named = {int(n) for n in re.findall(r"\d+", plan.message.split("use ")[1])}
                    below = max((v for v in valid if v < whole), default=None)
                    above = min(v for v in valid if v > whole)
                    assert named == {above} | ({below} if below else set())


def test_the_message_of_a_batch_that_does_not_divide() -> None:
    problem = plan_batch(train(), 6, lambda key: "recipe.yaml:18")
    assert isinstance(problem, Problem)
    assert str(problem) == (
        "recipe.yaml:18: train.global_batch_size: global_batch_size 64 is not a multiple of "
        "6 ranks x micro_batch_size 4 = 24; use 48 or 72"
    )


@pytest.mark.parametrize(
    ("keys", "num_samples", "per_epoch", "total", "warmup"),
    [
        ({"num_epochs": 3, "warmup_ratio": 0.1}, 640, 10, 30, 3),
        ({"num_epochs": 3, "warmup_ratio": 0.1}, 641, 11, 33, 4),
        ({"num_epochs": 0.5, "warmup_ratio": 0.0}, 641, 11, 6, 0),
        ({"max_steps": 7, "warmup_steps": 2}, 641, 11, 7, 2),
        ({"num_epochs": 1, "warmup_ratio": 0.03}, 3, 1, 1, 0),
        ({"num_epochs": 1}, 6400, 100, 100, 3),
        ({"max_steps": 2000, "warmup_ratio": 0.29}, 640, 10, 2000, 580),
    ],
)
def test_steps(
    keys: dict[str, object], num_samples: int, per_epoch: int, total: int, warmup: int
) -> None:
    plan = plan_steps(train(**keys), num_samples)
    assert plan.num_samples == num_samples
    assert (plan.steps_per_epoch, plan.total_steps, plan.warmup_steps) == (per_epoch, total, warmup)


def test_every_row_has_its_place_in_a_whole_number_of_epochs() -> None:
    for num_samples in range(1, 300, 7):
        for epochs in range(1, 5):
            plan = plan_steps(train(num_epochs=epochs, warmup_steps=0), num_samples)
            assert plan.steps_per_epoch * 64 >= num_samples > (plan.steps_per_epoch - 1) * 64
            assert plan.total_steps == epochs * math.ceil(num_samples / 64)


def test_warm_up_has_to_end_before_the_run() -> None:
    with pytest.raises(InputError, match="warmup_steps 10 is not below the total of 10 steps"):
        plan_steps(train(num_epochs=1, warmup_steps=10), 640)
    with pytest.raises(InputError, match="has 0 rows"):
        plan_steps(train(num_epochs=1), 0)
