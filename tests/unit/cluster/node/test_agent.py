"""The agent's environment: told how long a stop takes, and tied to the process that started it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.node.agent import environment_for, grace_seconds
from launcher.run_dir import RunDir


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        (None, 120),
        ({}, 120),
        ({"step_seconds": 2.0, "save_seconds": 10.0}, 120),
        ({"step_seconds": 40.5, "save_seconds": 200.0, "evaluate_batch_seconds": 9.0}, 752),
        # Written by somebody else.
        ({"step_seconds": "soon", "save_seconds": [1]}, 120),
        ({"step_seconds": 1e300, "save_seconds": 10.0}, 120),
        ({"step_seconds": "NaN", "save_seconds": 10.0}, 120),
        ({"step_seconds": -500.0, "save_seconds": 10.0}, 120),
        ([1, 2], 120),
    ],
)
def test_grace_is_learned_from_step_and_save(tmp_path: Path, timings: Any, expected: int) -> None:
    run_dir = RunDir(tmp_path)
    if timings is not None:
        run_dir.timings.write_text(json.dumps(timings))
    assert grace_seconds(run_dir) == expected


def test_variables_of_a_job_around_this_one_are_not_the_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    environment = environment_for(2)
    assert not {"RANK", "WORLD_SIZE"} & set(environment)


def test_torch_reads_the_variables_that_the_agent_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unknown variables are silently ignored: a new torch must not lose them.

    Before 2.12 the agent, when it is signalled itself, waits 30 s whatever it is told.
    """
    pytest.importorskip("torch", minversion="2.12")
    import torch.distributed.run as run
    from torch.distributed.launcher.api import LaunchConfig

    from launcher.cluster.node.agent import FORWARDED

    monkeypatch.setenv("PET_SIGNALS_TO_HANDLE", FORWARDED)
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "752")
    arguments = run.parse_args(["--nproc-per-node", "2", "script.py"])
    assert arguments.signals_to_handle == FORWARDED
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2)
    assert config.shutdown_timeout == 752
