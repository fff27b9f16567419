"""What Slurm says of jobs, by its own commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class QueuedJob:
    """One job as Slurm knows it."""

    job_id: str
    state: str
    """Slurm's long name: RUNNING, PENDING, COMPLETED, TIMEOUT, NODE_FAIL, ..."""
    reason: str
    nodes: tuple[str, ...]
    restart_count: int
    started: str | None
    time_left_seconds: int | None
    time_limit_seconds: int | None
    exit_code: int | None


def has_slurm() -> bool:
    """Return whether Slurm's commands are installed here."""
    return shutil.which("scontrol") is not None


def find_jobs(job_ids: Sequence[str]) -> dict[str, QueuedJob]:
    """Return what Slurm knows of these jobs; an unknown one is absent."""
    if not has_slurm():
        return {}
    found = {job_id: _show(job_id) for job_id in job_ids}
    return {job_id: job for job_id, job in found.items() if job is not None}


def _show(job_id: str) -> QueuedJob | None:
    text = _output("scontrol", "show", "job", "-o", job_id)
    values = dict(re.findall(r"(\w+)=(\S*)", text.splitlines()[0] if text else ""))
    if "JobState" not in values:
        return None
    limit, ran = _seconds(values.get("TimeLimit", "")), _seconds(values.get("RunTime", ""))
    running = values["JobState"] == "RUNNING"
    nodes = values.get("NodeList", "")
    return QueuedJob(
        job_id,
        values["JobState"],
        values.get("Reason", ""),
        tuple(_output("scontrol", "show", "hostnames", nodes).split())
        if nodes not in ("", "(null)")
        else (),
        int(values.get("Restarts", "0")),
        values.get("StartTime"),
        limit - ran if running and limit is not None and ran is not None else None,
        limit,
        int(values["ExitCode"].split(":")[0]) if "ExitCode" in values and not running else None,
    )


def _seconds(text: str) -> int | None:
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    return done.stdout if done.returncode == 0 else ""
