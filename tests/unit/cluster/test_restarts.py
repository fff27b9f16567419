"""A launch starts its ranks again only from a checkpoint, not for ever, and only forward."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.cluster.outcome import Cause
from launcher.cluster.restarts import Restarts, newest_step
from launcher.run_dir import RunDir

KILLED = Cause("rank 1 was killed")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def commit(run_dir: RunDir, step: int) -> None:
    run_dir.checkpoint(step).mkdir(parents=True)
    (run_dir.checkpoint(step) / "manifest.json").write_text("{}")


def test_only_committed_checkpoints_count(run_dir: RunDir) -> None:
    assert newest_step(run_dir) == 0
    commit(run_dir, 8)
    commit(run_dir, 4)
    run_dir.checkpoint(12).mkdir()
    (run_dir.checkpoints / "quarantine" / "step-000016").mkdir(parents=True)
    assert newest_step(run_dir) == 8


def test_not_without_a_checkpoint(run_dir: RunDir) -> None:
    assert Restarts(run_dir, most=3).why_not(KILLED, 2) == ""


def test_not_where_it_was_switched_off(run_dir: RunDir) -> None:
    commit(run_dir, 4)
    assert Restarts(run_dir, most=0).why_not(KILLED, 6) == ""


def test_not_for_what_would_be_met_again(run_dir: RunDir) -> None:
    commit(run_dir, 4)
    again = Cause("step 6: the loss is nan", can_restart=False)
    assert Restarts(run_dir, most=3).why_not(again, 6) == ""


def test_as_often_as_allowed_while_it_moves(run_dir: RunDir) -> None:
    restarts = Restarts(run_dir, most=4)
    for step in (4, 8, 12, 16):
        commit(run_dir, step)
        assert restarts.why_not(KILLED, step + 2) is None
        assert (restarts.newest, restarts.done) == (step, step // 4)
    commit(run_dir, 20)
    assert "4 of 4" in (restarts.why_not(KILLED, 22) or "")


@pytest.mark.parametrize(
    ("steps", "said"), [((6, 6, 6), "each ended at step 6"), ((6, 5, 7), "ended at steps 6, 5, 7")]
)
def test_three_attempts_without_progress_are_enough(
    run_dir: RunDir, steps: tuple[int, ...], said: str
) -> None:
    commit(run_dir, 4)
    restarts = Restarts(run_dir, most=10)
    assert restarts.why_not(KILLED, steps[0]) is None
    assert restarts.why_not(KILLED, steps[1]) is None
    why = restarts.why_not(KILLED, steps[2]) or ""
    assert "no progress in 3 attempts" in why
    assert said in why


def test_progress_starts_the_count_anew(run_dir: RunDir) -> None:
    commit(run_dir, 4)
    restarts = Restarts(run_dir, most=10)
    for _ in range(2):
        assert restarts.why_not(KILLED, 6) is None
    commit(run_dir, 8)
    for _ in range(3):
        assert restarts.why_not(KILLED, 10) is None
    assert "no progress" in (restarts.why_not(KILLED, 10) or "")


def test_not_after_the_time_limit(run_dir: RunDir) -> None:
    commit(run_dir, 4)
    restarts = Restarts(run_dir, most=3, deadline=time.monotonic() - 1)
    assert "time limit" in (restarts.why_not(KILLED, 6) or "")
