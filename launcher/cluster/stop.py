"""Stops a run from anywhere that sees its run folder: asks the ranks, or takes it off the queue."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

from launcher.cluster.follow.facts import RunState
from launcher.cluster.follow.judge import ACTIVE, WAITING
from launcher.cluster.follow.read import Queue, find_run, read_state
from launcher.cluster.slurm.commands import ask, ask_or_empty
from launcher.errors import InputError, Problem
from launcher.files.read import read_record
from launcher.files.write import replace_text
from launcher.lock import Holder
from launcher.process import Process
from launcher.run_dir import RunDir


def ask_to_stop(run_folder: Path, *, now: bool = False) -> str:
    """Stop a run; return what happens now, for people.

    A job in the queue is cancelled. What runs gets a stop request, which the ranks see within a
    second and agree on at their next step boundary; a job is not requeued after that. `now` sends
    SIGTERM too: it stops the same way, but ends what has not come to its first step at once.

    Raises:
        InputError: it is no run folder, or nothing runs in it.
        SlurmError: Slurm refused.
    """
    state = read_state(find_run(run_folder), Queue())
    job = state.job
    if state.holder is not None:
        return _ask(state, state.holder, now=now)
    if job is not None and job.state in (*WAITING, *ACTIVE) and state.state != "finished":
        # Between two steps of a running job, and before the first, there is nothing to save.
        ask("scancel", job.job_id)
        _cancel_preparation(state.run_dir)
        return f"cancelled: job {job.job_id} ({job.state}) of {state.name}; no rank was running"
    raise InputError(
        Problem(
            str(run_folder),
            "",
            f"nothing is running here: the run is {state.state}.",
            ""
            if state.state == "finished"
            else "`launcher run` or `launcher submit` starts or resumes it.",
        )
    )


def _cancel_preparation(run_dir: RunDir) -> None:
    """Cancel the job that prepares the data for the newest job, unless others of an array wait."""
    record = read_record(run_dir.job_dirs[-1].record)
    preparing = record.get("prepared_by")
    if preparing and not record.get("array"):
        ask_or_empty("scancel", str(preparing))  # it may have ended


def _ask(state: RunState, holder: Holder, *, now: bool) -> str:
    job_id = state.job.job_id if state.job is not None and state.job.state in ACTIVE else None
    if job_id is not None:
        # Whatever the job says as it ends, Slurm lets nobody requeue it any more.
        ask("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    _write_request(state.run_dir)
    where = f"job {job_id}" if job_id is not None else f"{holder.host}, pid {holder.pid}"
    said = f"asked: {state.name} ({where}) saves at its next step boundary and exits 75"
    return said + _signal(holder, job_id) if now else said


def _signal(holder: Holder, job_id: str | None) -> str:
    """Send SIGTERM to whatever carries the run; return what to add to the answer.

    `scancel --signal=TERM` reaches the job's steps and nothing else: no kill follows it. Without
    --signal Slurm would kill after KillWait (30 s), in the middle of a save perhaps; with --full
    it would go to the batch shell too, which only waits. https://slurm.schedmd.com/scancel.html
    """
    if job_id is not None:
        ask("scancel", "--signal=TERM", job_id)
        return "; SIGTERM is sent"
    if holder.is_here:
        Process(holder.pid, holder.started_ticks).send(signal.SIGTERM)
        return "; SIGTERM is sent"
    return f"; no signal was sent: it runs on {holder.host}, give --now there"


def _write_request(run_dir: RunDir) -> None:
    request = {"host": socket.gethostname(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    replace_text(run_dir.stop_request, json.dumps(request))
