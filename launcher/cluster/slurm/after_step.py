"""What becomes of a job once its step has ended: written down, requeued or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from launcher.cluster.outcome import say
from launcher.cluster.restarts import newest_step
from launcher.cluster.slurm.commands import SlurmError, ask, ask_or_empty, fields_of
from launcher.cluster.slurm.host_list import hostnames
from launcher.cluster.slurm.requeue import (
    Decision,
    Ended,
    attempt_of,
    decide,
    exit_code_of,
    stuck_attempts,
)
from launcher.files.read import read_object
from launcher.files.write import append_durably
from launcher.run_dir import JobDir, LogDir


def after_step(job: JobDir, job_id: str, restart_count: int, srun_code: int) -> int:
    """Decide, write it down, and do it; return the exit code of the job.

    A job that is requeued is sent SIGTERM at once: the caller has to ignore it.
    """
    logs = attempt_of(job.run_dir.launches, job_id, restart_count)
    shown = fields_of(ask_or_empty("scontrol", "show", "job", "--oneliner", job_id))
    exit_code = exit_code_of(logs, srun_code)
    ended = Ended(
        exit_code=exit_code,
        state=shown.get("JobState", ""),
        # Slurm counts a restart from the moment of the requeue on.
        requeued_by_slurm=int(shown.get("Restarts", 0)) > restart_count,
        is_finished=job.run_dir.summary.exists(),
        stop_asked=job.run_dir.is_asked_to_stop,
        stopped=read_object(logs.stopped) if logs else None,
        cause=read_object(logs.cause) if logs else None,
        stuck=stuck_attempts(job),
    )
    decision = decide(ended)
    _write(job, job_id, logs, exit_code, decision)
    if decision.requeue:
        say(f"requeued: {decision.why}{_avoiding(decision)}.")
    if decision.requeue and not decision.is_done:
        try:
            ask("scontrol", "requeue", job_id)
            _exclude(job_id, decision.exclude, shown)
        except SlurmError as error:
            decision = Decision(False, f"requeue failed: {error}")
            _write(job, job_id, logs, exit_code, decision)
    if not decision.requeue:
        say(f"not requeued: {decision.why}.")
    return exit_code


def _exclude(job_id: str, nodes: Sequence[str], shown: dict[str, str]) -> None:
    """Let the job avoid nodes from now on, with those that it avoids already.

    Slurm takes this of a job that waits, which it does from the moment of the requeue on. Only
    nodes that the job has had: another name is refused, and would lose the others.
    """
    had = hostnames(shown.get("NodeList", ""))
    short = {name.partition(".")[0]: name for name in had}
    bad = [short[node.partition(".")[0]] for node in nodes if node.partition(".")[0] in short]
    if not bad:
        return
    kept = [] if shown.get("ExcNodeList", "(null)") == "(null)" else [shown["ExcNodeList"]]
    names = ",".join([*kept, *bad])
    try:
        ask("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={names}")
    except SlurmError as error:
        say(f"{', '.join(bad)} could not be excluded: {error}.")


def _write(
    job: JobDir, job_id: str, logs: LogDir | None, exit_code: int, decision: Decision
) -> None:
    record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "job_id": job_id,
        "attempt": int(logs.root.name) if logs else None,
        "exit_code": exit_code,
        "requeued": decision.requeue,
        "why": decision.why,
        "checkpoint": newest_step(job.run_dir),
        "excluded": list(decision.exclude),
    }
    append_durably(job.ended, [json.dumps(record)])


def _avoiding(decision: Decision) -> str:
    return f", avoiding {', '.join(decision.exclude)}" if decision.exclude else ""
