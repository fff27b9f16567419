"""What Slurm knows of jobs: squeue first, then the accounting, then the controller's own record."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.cluster.slurm.commands import ask_or_empty, fields_of, has_slurm
from launcher.cluster.slurm.durations import seconds_of
from launcher.cluster.slurm.host_list import hostnames

ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip
"""States that a job doesn't leave by itself (https://slurm.schedmd.com/squeue.html, JOB STATE
CODES); a job that is requeued passes through them only for a moment."""

# squeue cuts a field at its width, so each has room for the longest that can be.
_SQUEUE = (
    ("JobArrayID", 64), ("JobID", 32), ("State", 32), ("Reason", 128), ("NodeList", 2048),
    ("RestartCnt", 12), ("StartTime", 32), ("TimeLeft", 32), ("TimeLimit", 32), ("exit_code", 12),
)  # fmt: skip
_SACCT = ("JobID", "JobIDRaw", "State", "Reason", "NodeList", "Start", "Timelimit", "ExitCode")


@dataclass(frozen=True)
class QueuedJob:
    """One job as Slurm has it."""

    job_id: str
    """As it was asked for: `42`, or `42_3` for a task of an array."""
    state: str
    """Slurm's long name, such as RUNNING."""
    reason: str
    """Why it waits, or ended; empty where Slurm gives none."""
    nodes: tuple[str, ...]
    restart_count: int
    """0 where only the accounting knows the job."""
    started: str | None
    """Local time of the (expected) start, ISO."""
    time_left_seconds: int | None
    time_limit_seconds: int | None
    exit_code: int | None
    """None while it has not ended, and where Slurm doesn't say with what it did."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.state in ENDED


def find_jobs(job_ids: Sequence[str]) -> dict[str, QueuedJob]:
    """Return what Slurm knows of these jobs, by the names they were asked for.

    An unknown job is absent; all are where Slurm's commands are missing.
    """
    wanted = [job_id for job_id in dict.fromkeys(job_ids) if _is_job_id(job_id)]
    found: dict[str, QueuedJob] = {}
    if not wanted or not has_slurm():
        return found
    for look in (_squeue, _sacct, _scontrol):
        missing = [job_id for job_id in wanted if job_id not in found]
        if missing:
            found |= look(missing)
    return found


def _squeue(job_ids: Sequence[str]) -> dict[str, QueuedJob]:
    form = ",".join(f"{name}:{width}" for name, width in _SQUEUE)
    options = ("--noheader", "--all", "--states=all", f"--jobs={','.join(job_ids)}")
    rows = [
        _cut(line) for line in ask_or_empty("squeue", *options, f"--Format={form}").splitlines()
    ]
    return dict(_named(rows, job_ids))


def _cut(line: str) -> dict[str, str]:
    row, at = {}, 0
    for name, width in _SQUEUE:
        row[name] = line[at : at + width].strip()
        at += width
    return row


def _named(
    rows: Sequence[dict[str, str]], job_ids: Sequence[str]
) -> Iterator[tuple[str, QueuedJob]]:
    for job_id in job_ids:
        row = next((row for row in rows if is_row_of(row["JobArrayID"], job_id)), None)
        row = row or next((row for row in rows if row["JobID"] == job_id), None)
        if row is None:
            continue
        state = row["State"]
        yield (
            job_id,
            QueuedJob(
                job_id=job_id,
                state=state,
                reason=_known(row["Reason"]),
                nodes=hostnames(row["NodeList"]),
                restart_count=int(row["RestartCnt"] or 0),
                started=_known(row["StartTime"]) or None,
                time_left_seconds=seconds_of(row["TimeLeft"]),
                time_limit_seconds=seconds_of(row["TimeLimit"]),
                exit_code=exit_code_of(row["exit_code"], state),
            ),
        )


def is_row_of(array_id: str, job_id: str) -> bool:
    """Tell whether a row is of a job: tasks of an array that wait share one, `42_[1-3,5%2]`."""
    if array_id == job_id:
        return True
    job, _, tasks = array_id.partition("_[")
    wanted, underscore, task = job_id.partition("_")
    if not tasks or not underscore or job != wanted:
        return False
    ranges = re.findall(r"([0-9]+)(?:-([0-9]+))?", tasks.partition("%")[0])
    return any(int(first) <= int(task) <= int(last or first) for first, last in ranges)


def _sacct(job_ids: Sequence[str]) -> dict[str, QueuedJob]:
    options = ("--noheader", "--parsable2", "--allocations", f"--jobs={','.join(job_ids)}")
    text = ask_or_empty("sacct", *options, f"--format={','.join(_SACCT)}")
    lines = [line.split("|") for line in text.splitlines()]
    rows = [dict(zip(_SACCT, line, strict=True)) for line in lines if len(line) == len(_SACCT)]
    found = {}
    for row in rows:
        for job_id in {row["JobID"], row["JobIDRaw"]} & set(job_ids):
            state = row["State"].split()[0] if row["State"] else "UNKNOWN"  # CANCELLED by 1000
            nodes = hostnames(row["NodeList"])
            # The accounting keeps why a job had to wait, which isn't why it ended once it ran.
            reason = "" if nodes and state in ENDED else _known(row["Reason"])
            found[job_id] = QueuedJob(
                job_id=job_id,
                state=state,
                reason=reason,
                nodes=nodes,
                restart_count=0,
                started=_known(row["Start"]) or None,
                time_left_seconds=None,
                time_limit_seconds=seconds_of(row["Timelimit"].replace("Partition_Limit", "")),
                exit_code=exit_code_of(row["ExitCode"], state),
            )
    return found


def _scontrol(job_ids: Sequence[str]) -> dict[str, QueuedJob]:
    found = {}
    for job_id in job_ids:
        text = ask_or_empty("scontrol", "show", "job", "--oneliner", job_id)
        row = fields_of(text.partition("\n")[0])
        if "JobState" in row:
            found[job_id] = QueuedJob(
                job_id=job_id,
                state=row["JobState"],
                reason=_known(row.get("Reason", "")),
                nodes=hostnames(row.get("NodeList", "")),
                restart_count=int(row.get("Restarts", 0)),
                started=_known(row.get("StartTime", "")) or None,
                time_left_seconds=None,
                time_limit_seconds=seconds_of(row.get("TimeLimit", "")),
                exit_code=exit_code_of(row["ExitCode"], row["JobState"]),
            )
    return found


def _is_job_id(text: str) -> bool:
    job, _, task = text.partition("_")
    return job.isdigit() and (task.isdigit() or task == "")


def _known(text: str) -> str:
    return "" if text in ("None", "N/A", "Unknown", "(null)") else text


def exit_code_of(text: str, state: str) -> int | None:
    """Return the exit code in `3:0` (code:signal) or in a wait status; 128 + n after a signal n.

    The accounting has 0 for a job that was cancelled or ran out of time, which says nothing.
    """
    code, colon, number = text.partition(":")
    if state not in ENDED or not code.isdigit():
        return None
    if colon:
        ended = 128 + int(number) if number.isdigit() and int(number) else int(code)
    else:
        ended = os.waitstatus_to_exitcode(int(code))
        ended = ended if ended >= 0 else 128 - ended
    return ended if ended or state == "COMPLETED" else None
