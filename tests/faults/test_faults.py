"""A sample of the faults by a fixed seed; `make faults` injects all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.faults.__main__ import all_trials, make_bench, sample
from tests.faults.catalogue import FAULTS
from tests.faults.setting import Bench, Setting

NUM_TRIALS = {"F1": 2, "F3": 4, "F4": 4, "F12": 2, "F27": 2}
LOOKED_AT = [Setting(2, "lora"), Setting(3, "full")]
"""Of these, undisturbed runs show where F3 and F4 can strike."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    return make_bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("fault", FAULTS)
def test_sampled_trials_hold(fault: str, bench: Bench, tmp_path: Path) -> None:
    trials = sample(all_trials(bench, {fault}, LOOKED_AT), NUM_TRIALS.get(fault, 1))
    assert trials
    for number, trial in enumerate(trials):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert trial.run(bench, trial.setting, folder), str(trial)
