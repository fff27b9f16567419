"""Every state of a run, from what Slurm and the files say; a killed run is never running."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.attempts import Attempt
from launcher.cluster.follow.judge import ACTIVE, WAITING, Evidence, judge
from launcher.cluster.follow.submitted import Submitted
from launcher.cluster.slurm.queue import QueuedJob
from launcher.run_dir import JobDir

SUBMITTED = Submitted(JobDir(Path("jobs/001")), "42", "2026-03-14T09:00:00+00:00", 240)
BEFORE, AFTER = 1773478800.0 - 60, 1773478800.0 + 60  # of when it was submitted
NOTHING = Evidence([], finished=False, held=False, left_lock=False)
DEAD = replace(NOTHING, left_lock=True)


def job(state: str, restart_count: int = 0) -> QueuedJob:
    return QueuedJob("42", state, "None", ("n1",), restart_count, None, None, None, None)


def attempt(outcome: str, job_id: str | None = "42", started: float = AFTER) -> Attempt:
    folders = {"41": "jobs/000", "42": "jobs/001"}
    return Attempt(1, outcome, job_folder=folders.get(job_id or ""), started=started)


def in_slurm(state: str, *attempts: Attempt, restart_count: int = 0, **more: Any) -> Evidence:
    found = job(state, restart_count)
    return replace(
        NOTHING, attempts=list(attempts), submitted=SUBMITTED, job=found, has_queue=True, **more
    )


CASES = {
    "finished, whatever Slurm says": (
        in_slurm("COMPLETING", attempt("finished"), finished=True), "finished",
    ),
    "first wait": (in_slurm("PENDING"), "pending"),
    "wait after a requeue by its state": (in_slurm("REQUEUED", attempt("stopped")), "requeued"),
    "wait after a requeue by its count": (in_slurm("PENDING", restart_count=1), "requeued"),
    "a second job of a run waits": (
        in_slurm("PENDING", attempt("stopped", job_id="41", started=BEFORE)), "pending",
    ),
    "runs": (in_slurm("RUNNING", attempt("running")), "running"),
    "runs again, no attempt yet": (in_slurm("RUNNING", attempt("stopped")), "running"),
    "local launch": (replace(NOTHING, held=True), "running"),
    "local launch beside an ended job": (
        in_slurm("COMPLETED", attempt("stopped"), held=True), "running",
    ),
    "killed": (replace(DEAD, attempts=[attempt("lost", None)]), "lost"),
    "killed before any rank": (DEAD, "lost"),
    "never running without a holder": (
        replace(NOTHING, attempts=[attempt("running", None)]), "lost",
    ),
    "stopped": (replace(NOTHING, attempts=[attempt("stopped", None)]), "stopped"),
    "failed": (in_slurm("FAILED", attempt("failed")), "failed"),
    "out of Slurm's time without a word": (in_slurm("TIMEOUT", attempt("lost")), "failed"),
    "node lost without a word": (in_slurm("NODE_FAIL", attempt("lost")), "failed"),
    "cancelled without a word": (in_slurm("CANCELLED", attempt("lost")), "stopped"),
    "completed without a word": (in_slurm("COMPLETED", attempt("lost")), "lost"),
    "cancelled in the queue": (in_slurm("CANCELLED"), "stopped"),
    "script failed before any rank": (in_slurm("FAILED"), "failed"),
    "a later job failed before any rank": (
        in_slurm("FAILED", attempt("stopped", job_id="41", started=BEFORE)), "failed",
    ),
    "a local launch after the job": (
        in_slurm("COMPLETED", attempt("failed", job_id=None)), "failed",
    ),
    "Slurm has forgotten it": (
        replace(NOTHING, submitted=SUBMITTED, has_queue=True), "lost",
    ),
    "no Slurm on this host": (replace(NOTHING, submitted=SUBMITTED), "pending"),
    "no Slurm on this host, job began": (
        replace(NOTHING, submitted=SUBMITTED, attempts=[attempt("failed")]), "failed",
    ),
    "no Slurm on this host, job requeued itself": (
        replace(
            NOTHING, submitted=replace(SUBMITTED, requeued=True), attempts=[attempt("stopped")]
        ),
        "requeued",
    ),
    "only the script was written": (
        replace(NOTHING, submitted=replace(SUBMITTED, job_id=None), has_queue=True), "pending",
    ),
    "nothing was begun": (NOTHING, "stopped"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_states(case: str) -> None:
    evidence, state = CASES[case]
    assert judge(evidence).state == state


def test_slurm_names_why_where_the_run_could_not() -> None:
    assert "NODE_FAIL" in judge(in_slurm("NODE_FAIL", attempt("lost"))).note
    assert "CANCELLED" in judge(in_slurm("CANCELLED")).note
    assert "job 42" in judge(replace(NOTHING, submitted=SUBMITTED, has_queue=True)).note


def test_no_state_of_slurm_is_both() -> None:
    assert not set(ACTIVE) & set(WAITING)
