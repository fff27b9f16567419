"""What is timed of a step is this rank's own work: no waiting, no evaluation."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from launcher.train.local_work import MOST_LAYERS, WorkTimer, layers_of, sampled_layers

CPU = torch.device("cpu")
MODEL = nn.Sequential(nn.Embedding(100, 8), *(nn.Linear(8, 8) for _ in range(40)), nn.LayerNorm(8))


class Slow(nn.Linear):
    """A layer that takes its time."""

    def forward(self, input: Tensor) -> Tensor:
        time.sleep(0.01)
        return super().forward(input)


def test_making_batches_and_whole_forward_passes_count_and_nothing_else() -> None:
    timer = WorkTimer(MODEL, CPU, zero_stage=2)
    for _ in range(2):  # a step leaves nothing behind for the next
        timer.start()
        with timer.collation():
            time.sleep(0.02)
        for _ in range(3):
            with timer.forward(num_tokens=100):
                time.sleep(0.01)
        time.sleep(0.03)  # waiting for others, say
        work = timer.take()
        assert 0.05 <= work.seconds <= work.step_seconds - 0.03
        assert work.num_tokens == 300


def test_at_zero3_layers_are_timed_and_not_what_is_waited_for_between_them() -> None:
    model = nn.Sequential(*(Slow(8, 8) for _ in range(4 * MOST_LAYERS)))
    timer = WorkTimer(model, CPU, zero_stage=3)
    model(torch.ones(1, 8))  # an evaluation
    timer.start()
    with timer.forward(num_tokens=100):
        time.sleep(0.5)
        model(torch.ones(1, 8))
    work = timer.take()
    # Projected from a quarter of the layers; a loaded machine may take longer for these.
    assert 0.01 * 4 * MOST_LAYERS <= work.seconds <= 4 * (work.step_seconds - 0.5)


def test_the_layers_timed_are_spread_over_the_model() -> None:
    layers = layers_of(MODEL)
    assert [type(layer) for layer in layers] == [nn.Linear] * 40
    sampled = sampled_layers(MODEL)
    assert MOST_LAYERS / 2 < len(sampled) <= MOST_LAYERS
    assert {layers.index(layer) // 14 for layer in sampled} == {0, 1, 2}


def test_adapters_are_not_what_is_timed() -> None:
    model = nn.Sequential(
        *(nn.Linear(64, size) for _ in range(8) for size in (64, 1, 1)), nn.Linear(64, 640)
    )
    sampled = sampled_layers(model)
    assert {layer.weight.shape[0] for layer in sampled if isinstance(layer, nn.Linear)} == {64, 640}


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_step_without_work_took_none(zero_stage: int) -> None:
    timer = WorkTimer(MODEL, CPU, zero_stage)
    timer.start()
    assert timer.take().seconds == 0.0
