"""What each attempt of a run came to: on what, how long, why it ended, what to do next.

An attempt is one `logs/NNN`. Everything is read from its files, so that it can be told on any host
that sees the run folder, long after the processes have gone.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from launcher.files.read import Record, modified, read_object, read_record
from launcher.run_dir import LogDir, RunDir

OUTCOMES = ("running", "finished", "stopped", "failed", "lost")
LOST = "nothing was written at its end"
WHERE_TO_LOOK = re.compile(r"\s*(Log: |Its stacks: |The same command resumes).*", re.DOTALL)
OF_CLASS = {
    "out of memory": "out of memory",
    "timeout": "collective timeout",
    "lost peer": "node",
    "input": "input",
    "non-finite": "non-finite",
}
"""Category of a failure by the class that its rank gave it; what is not here is code."""
OF_KIND = {"Out of memory": "out of memory", "Late": "collective timeout", "Killed": "killed"}
ACTIONS = {
    "out of memory": "Lower train.micro_batch_size, set model.gradient_checkpointing: true, or use"
    " a higher ZeRO stage; then give the same command.",
    "collective timeout": "Read the stacks of the late rank beside its logs: a slow disk or row, or"
    " a node to exclude; raise run.timeout_seconds only if the work takes that long.",
    "node": "Submit again without that node and tell its administrators; the run resumes.",
    "data row": "Look at the row that is named and mend it, or set data.bad_rows: skip.",
    "code": "Read the traceback in the log of that rank: the same command would meet it again.",
    "input": "Change what is named, then give the same command.",
    "non-finite": "Look at the rows that are named; lower train.learning_rate, or set"
    " train.non_finite: skip.",
    "killed": "Find out who sent the signal (dmesg, sacct, an administrator); the same command"
    " resumes.",
    "port": "Give another --port, or submit again: the port follows from the job id.",
    "late node": "Run `launcher doctor` on that node, or submit again without it.",
    "lost": "Ask Slurm (sacct -j JOB) or the node's kernel log who ended it; the same command"
    " resumes.",
}


@dataclass(frozen=True)
class Attempt:
    """One attempt, as its files tell it."""

    number: int
    outcome: str
    """`running`, `finished`, `stopped` (cleanly), `failed`, or `lost`: ended without a word."""
    command: str = "launcher run"
    job_id: str | None = None
    job_folder: str | None = None
    """Of its submission, relative to the run folder: `jobs/001`."""
    restart_count: int | None = None
    """How often Slurm had requeued its job."""
    nodes: tuple[str, ...] = ()
    world_size: int = 0
    gpus: int = 0
    """Over all nodes; 0 on CPUs."""
    started: float | None = None
    """Seconds since the epoch, as all times here."""
    ended: float | None = None
    """None while it runs; of a lost attempt its last sign of life."""
    step: int | None = None
    """The furthest step that any rank is known to have been at."""
    why: str = ""
    """Why it ended, in a line; empty where it runs or has finished."""
    message: str = ""
    """The root cause in full, of a failed attempt."""
    rank: int | None = None
    """The rank that failed first."""
    host: str | None = None
    """The node of that rank, or the node that was lost."""
    category: str | None = None
    """Class of the failure: a key of `ACTIONS`."""
    action: str = ""
    """What to do next, in a sentence."""

    def hours(self, now: float | None = None) -> float:
        """Return how long it took, or has taken so far."""
        if self.started is None:
            return 0.0
        end = self.ended if self.ended is not None else now or time.time()
        return max(0.0, end - self.started) / 3600

    def is_before(self, moment: str) -> bool:
        """Return whether it began before a moment (ISO 8601); False where either is unknown."""
        seconds = _seconds(moment)
        return seconds is not None and self.started is not None and self.started < seconds

    @property
    def units(self) -> int:
        """What its hours are multiplied by: its GPUs, or its nodes where it has none."""
        return self.gpus or max(1, len(self.nodes))


def next_action(category: str) -> str:
    """Return what to do after a failure of this category, in one sentence; empty if unknown."""
    return ACTIONS.get(category, "")


def read_attempts(run_dir: RunDir, *, is_live: bool) -> list[Attempt]:
    """Return all attempts, oldest first; torn and missing files leave gaps, never an error.

    `is_live`: somebody still works on the run, so that the newest attempt may be running.
    """
    launches = run_dir.launches
    finished = run_dir.summary.exists()
    return [
        _attempt(logs, is_newest=logs is launches[-1], is_live=is_live, finished=finished)
        for logs in launches
    ]


def spent(attempts: Sequence[Attempt], now: float | None = None) -> tuple[float, str]:
    """Return hours times GPUs over all attempts and their unit; node-hours where no GPU was."""
    has_gpus = any(attempt.gpus for attempt in attempts)
    return (
        math.fsum(attempt.hours(now) * attempt.units for attempt in attempts),
        "GPU-hours" if has_gpus else "node-hours",
    )


def _attempt(logs: LogDir, *, is_newest: bool, is_live: bool, finished: bool) -> Attempt:
    record = read_record(logs.attempt)
    beats = [beat for path in logs.heartbeats if (beat := read_object(path)) is not None]
    outcome, end = _outcome(logs, record, is_live=is_newest and is_live)
    if outcome == "running" and is_newest and finished:
        outcome = "finished"
    elif outcome == "running" and not (is_newest and is_live):
        outcome = "lost"
    hosts = sorted({host for beat in beats if (host := beat.text("host"))})
    steps = [step for place in (*beats, end) if (step := place.integer("step"))]
    return Attempt(
        number=int(logs.root.name),
        outcome=outcome,
        command=record.text("command") or "launcher run",
        job_id=record.text("job_id"),
        job_folder=record.text("job_folder"),
        restart_count=record.integer("restart_count"),
        nodes=record.texts("nodes") or tuple(hosts),
        world_size=record.integer("world_size") or len(beats),
        gpus=record.integer("gpus") or 0,
        started=_seconds(record.text("started")) or _oldest(logs),
        ended=None if outcome == "running" else _seconds(record.text("ended")) or _newest(logs),
        step=max(steps, default=None),
        **_reason(outcome, end),
    )


def _outcome(logs: LogDir, record: Record, *, is_live: bool) -> tuple[str, Record]:
    """Return how it ended by what was written, and that; `running` where nothing was.

    While somebody works on it, what single ranks say may be a consequence: the cause is awaited.
    """
    said = record.text("outcome") or "running"
    if said not in OUTCOMES:
        said = "running"
    if said == "finished":
        return said, Record()
    for outcome, path in (("failed", logs.cause), ("stopped", logs.stopped)):
        if (end := read_object(path)) is not None:
            return outcome, end
    failure = None if is_live else _first_failure(logs)
    return (said, Record()) if failure is None else ("failed", failure)


def _first_failure(logs: LogDir) -> Record | None:
    """Return the earliest failure of a rank, where nobody was there to find the root cause."""
    found = [failure for path in logs.failures if (failure := read_object(path)) is not None]
    return min(found, key=lambda failure: failure.number("time") or math.inf, default=None)


def _reason(outcome: str, end: Record) -> dict[str, Any]:
    if outcome == "lost":
        return {"why": LOST, "category": "lost", "action": next_action("lost")}
    if outcome == "stopped":
        return {"why": end.text("reason") or "asked to stop"}
    if outcome != "failed":
        return {}
    message = end.text("message") or end.text("kind") or "failed"
    category = end.text("category") or _category(end)
    nodes = end.texts("nodes")
    return {
        "why": WHERE_TO_LOOK.sub("", message.splitlines()[0] if message.strip() else ""),
        "message": message,
        "rank": end.integer("rank"),
        "host": nodes[0] if nodes else end.text("host"),
        "category": category,
        "action": end.text("action") or next_action(category),
    }


def _category(end: Record) -> str:
    """Return the category of an end that was written without one."""
    return OF_KIND.get(end.text("kind") or "") or OF_CLASS.get(end.text("class") or "", "code")


def _oldest(logs: LogDir) -> float | None:
    return min(_times(logs.root), default=None)


def _newest(logs: LogDir) -> float | None:
    return max(_times(logs.root), default=None)


def _times(folder: Path) -> list[float]:
    """Return when each file was last written, where nobody wrote down beginning and end."""
    try:
        paths = list(folder.iterdir())
    except OSError:
        return []
    return [moment for path in paths if (moment := modified(path)) is not None]


def _seconds(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return None
