"""What is timed of a step is this rank's own work, and the probe keeps to its share."""

from __future__ import annotations

import math
import time

import pytest
import torch

from launcher.train.local_work import Probe, WorkTimer

CPU = torch.device("cpu")


@pytest.mark.parametrize(("times_forward", "least"), [(True, 0.05), (False, 0.02)])
def test_batches_always_count_and_forward_passes_where_they_are_local(
    times_forward: bool, least: float
) -> None:
    timer = WorkTimer(CPU, times_forward=times_forward)
    with timer.collation():
        time.sleep(0.02)
    for _ in range(3):
        with timer.forward(num_tokens=100):
            time.sleep(0.01)
    time.sleep(0.03)  # waiting for others, say
    work = timer.result()
    assert least <= work.seconds <= work.step_seconds - 0.03
    assert work.num_tokens == 300
    if not times_forward:
        assert work.seconds <= work.step_seconds - 0.06


def test_a_probe_runs_within_its_share_and_says_how_long_it_took() -> None:
    probe = Probe(CPU)
    assert math.isnan(probe.take())
    probe.run_if_due()
    assert math.isnan(probe.take())  # no time has passed that it could have a share of
    time.sleep(0.3)
    probe.run_if_due()
    assert 1e-5 < probe.take() < 0.3
    assert math.isnan(probe.take())
