"""The end of a launch is told from its files: one summary, or one root cause."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cluster.outcome import explain_failure, print_summary
from launcher.errors import InputError, Problem, TrainingError
from launcher.run_dir import LogDir, RunDir
from launcher.train.failure import describe_failure, write_failure
from launcher.world import World

# As torch's elastic agent prints it (torch.distributed.elastic.multiprocessing.errors).
ELASTIC = """
E1 api.py:1] failed (exitcode: -9) local_rank: 1 (pid: 4711) of binary: /usr/bin/python3
============================================================
launcher.train FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-01-01_00:00:00
  host      : node
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 4710)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 4710
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : node
  rank      : 3 (local_rank: 1)
  exitcode  : -9 (pid: 4711)  (SIGKILL)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 4711
============================================================
"""


@pytest.fixture
def logs(tmp_path: Path) -> LogDir:
    found = RunDir(tmp_path).logs(1)
    found.root.mkdir(parents=True)
    found.launch.write_text("noise\n")
    return found


def fail(logs: LogDir, rank: int, error: Exception, time: float) -> None:
    write_failure({**describe_failure(error, World(rank, rank, 4)), "time": time}, logs)


def test_the_first_failure_is_the_cause(logs: LogDir, capsys: pytest.CaptureFixture[str]) -> None:
    fail(logs, 0, ConnectionError("peer closed the connection"), 20.0)
    fail(logs, 2, KeyError("messages"), 10.0)
    assert explain_failure(logs, 1) == 1
    said = capsys.readouterr().err
    assert "rank 2" in said
    assert "KeyError" in said
    assert "rank-2.log" in said
    assert "peer closed" not in said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError(Problem("recipe.yaml:3", "model.path", "no such folder.", "Name one.")), 2),
        (TrainingError("step 7: the loss is nan"), 1),
    ],
)
def test_expected_errors_keep_their_words_and_code(
    logs: LogDir, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    fail(logs, 0, error, 1.0)
    assert explain_failure(logs, 1) == code
    said = capsys.readouterr().err
    assert said.startswith(str(error))
    assert "Traceback" not in said


def test_a_killed_rank_is_named_with_its_signal(
    logs: LogDir, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.launch.write_text(ELASTIC)
    assert explain_failure(logs, 1) == 1
    assert "rank 3 was killed by signal 9" in capsys.readouterr().err


def test_a_lost_peer_is_not_the_cause(logs: LogDir, capsys: pytest.CaptureFixture[str]) -> None:
    """A survivor's connection error comes first in time, and a killed rank leaves no words."""
    logs.launch.write_text(ELASTIC)
    fail(logs, 0, RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), 1.0)
    assert explain_failure(logs, 1) == 1
    assert "rank 3 was killed by signal 9" in capsys.readouterr().err


def test_an_error_goes_before_the_kill_that_followed(
    logs: LogDir, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent kills with SIGKILL whom SIGTERM did not end."""
    logs.launch.write_text(ELASTIC)
    fail(logs, 0, KeyError("messages"), 1.0)
    assert explain_failure(logs, 1) == 1
    assert "rank 0" in capsys.readouterr().err


def test_nothing_known_says_where_to_look(logs: LogDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_failure(logs, 1) == 1
    assert "launch.log" in capsys.readouterr().err


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path / "bot")
    run_dir.root.mkdir()
    summary = {
        "outcome": "early_stopped",
        "step": 40,
        "best": {"step": 25, "metric": "validation/loss", "value": 0.51},
        "overfitting_since": 25,
    }
    run_dir.summary.write_text(json.dumps(summary))
    print_summary(run_dir)
    said = capsys.readouterr().out
    for part in ("stopped early at step 40", "0.5100 at step 25", "overfitting since step 25"):
        assert part in said
