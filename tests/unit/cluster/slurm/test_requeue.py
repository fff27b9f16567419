"""One decision at the end of a step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.slurm.requeue import (
    Decision,
    Ended,
    attempt_of,
    decide,
    exit_code_of,
    stuck_attempts,
)
from launcher.files.read import Record
from launcher.run_dir import LogDir, RunDir

STOPPED = Ended(75, "RUNNING", stopped=Record({"step": 4, "reason": "SIGTERM or SIGUSR1"}))
FAILED = Ended(1, "RUNNING", cause=Record({"category": "node", "nodes": ["n3"], "message": "lost"}))


def test_a_stop_by_the_cluster_goes_on() -> None:
    assert decide(STOPPED) == Decision(True, "stopped in time (SIGTERM or SIGUSR1)")
    limit = replace(STOPPED, stopped=Record({"step": 4, "reason": "time limit"}))
    assert decide(limit).requeue
    assert decide(replace(STOPPED, stopped=None)).requeue


@pytest.mark.parametrize("reason", ["launcher stop", "Ctrl-C", "SIGINT"])
def test_a_stop_by_a_person_does_not(reason: str) -> None:
    assert not decide(replace(STOPPED, stopped=Record({"step": 4, "reason": reason}))).requeue
    assert not decide(replace(STOPPED, stop_asked=True)).requeue


def test_a_bad_node_is_avoided() -> None:
    assert decide(FAILED) == Decision(True, "node", ("n3",))


@pytest.mark.parametrize("category", ["killed", "late node", "lost peer", "port"])
def test_what_may_pass_is_tried_again(category: str) -> None:
    assert decide(replace(FAILED, cause=Record({"category": category}))).requeue


@pytest.mark.parametrize(
    "category",
    ["code", "input", "non-finite", "data row", "out of memory", "collective timeout", None],
)
def test_what_would_come_again_is_not(category: str | None) -> None:
    assert not decide(replace(FAILED, cause=Record({"category": category}))).requeue


def test_a_cause_that_says_so_is_not_tried_again() -> None:
    assert not decide(
        replace(FAILED, cause=Record({"category": "node", "can_restart": False}))
    ).requeue
    assert not decide(replace(FAILED, cause=None)).requeue


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "TIMEOUT", ""])
def test_a_job_that_is_being_ended_is_left_alone(state: str) -> None:
    assert not decide(replace(STOPPED, state=state)).requeue


def test_what_slurm_requeued_needs_nothing_more() -> None:
    assert decide(replace(STOPPED, state="COMPLETING", requeued_by_slurm=True)).is_done


def test_a_finished_run_is_over() -> None:
    assert decide(Ended(0, "RUNNING")) == Decision(False, "the step ended without an error")
    assert decide(replace(FAILED, is_finished=True)) == Decision(False, "the run is finished")


def test_three_without_progress_are_enough() -> None:
    assert decide(replace(STOPPED, stuck=2)).requeue
    ended = decide(replace(STOPPED, stuck=3))
    assert not ended.requeue
    assert ended.why.startswith("3 attempts in a row brought no new checkpoint; last: stopped in")


def test_progress_is_counted_from_what_was_there_at_submit(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    job = run_dir.job(1)
    job.root.mkdir(parents=True)

    def saved(step: int) -> None:
        run_dir.checkpoint(step).mkdir(parents=True)
        (run_dir.checkpoint(step) / "manifest.json").write_text("{}")

    def attempt() -> int:
        stuck = stuck_attempts(job)
        with job.ended.open("a") as file:
            file.write(
                json.dumps({"checkpoint": 10 if not run_dir.checkpoint(20).exists() else 20})
            )
            file.write("\n")
        return stuck

    saved(10)
    job.record.write_text('{"checkpoint": 10}')
    assert [attempt(), attempt()] == [1, 2]
    saved(20)
    assert [attempt(), attempt(), attempt(), attempt()] == [0, 1, 2, 3]


def logs_of(folder: Path, **files: Any) -> LogDir:
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return LogDir(folder)


def test_the_attempt_is_of_this_start_of_this_job(tmp_path: Path) -> None:
    first = logs_of(tmp_path / "001", attempt={"job_id": "42", "restart_count": 0})
    other = logs_of(tmp_path / "002", attempt={"job_id": None, "restart_count": None})
    launches = [first, other]
    assert attempt_of(launches, "42", 0) == first
    assert attempt_of(launches, "42", 1) is None
    assert attempt_of(launches, "43", 0) is None


def test_the_launch_knows_its_exit_code_better_than_srun(tmp_path: Path) -> None:
    assert exit_code_of(None, 143) == 143
    said = logs_of(tmp_path / "001", attempt={"exit_code": 2})
    assert exit_code_of(said, 143) == 2
    stopped = logs_of(tmp_path / "002", attempt={"exit_code": None}, stopped={"step": 1})
    assert exit_code_of(stopped, 143) == 75
    assert exit_code_of(stopped, 0) == 0
    silent = logs_of(tmp_path / "003", attempt={})
    assert exit_code_of(silent, 137) == 137
