"""Run folders as launches and jobs leave them, in the formats that are read to follow a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from launcher.run_dir import JobDir, LogDir, RunDir

BEGAN = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)


def write_attempt(
    run_dir: RunDir,
    number: int,
    *,
    outcome: str = "running",
    hours: float | None = None,
    nodes: tuple[str, ...] = ("n1", "n2"),
    **record: Any,
) -> LogDir:
    """Write `attempt.json` of an attempt that began so many hours after the one before it."""
    logs = run_dir.logs(number)
    logs.root.mkdir(parents=True)
    started = BEGAN + timedelta(hours=10 * number)
    ended = None if hours is None else (started + timedelta(hours=hours)).isoformat()
    values = {
        "attempt": number,
        "command": "launcher submit",
        "job_id": "42",
        "job_folder": "jobs/001",
        "restart_count": number - 1,
        "nodes": list(nodes),
        "ranks_per_node": 2,
        "world_size": 2 * len(nodes),
        "gpus": 0,
        "started": started.isoformat(),
        "ended": ended,
        "exit_code": None,
        "outcome": outcome,
    }
    logs.attempt.write_text(json.dumps(values | record))
    return logs


def write_beat(logs: LogDir, rank: int, host: str, **place: Any) -> None:
    """Write the heartbeat of a rank."""
    beat = {"rank": rank, "host": host, "pid": 1, "phase": "train", "step": 5, "micro_step": 0}
    logs.heartbeat(rank).write_text(json.dumps(beat | place))


def write_cause(logs: LogDir, message: str, **fields: Any) -> None:
    """Write the root cause of an attempt."""
    values = {"time": 0.0, "exit_code": 1, "kind": "Failed", "message": message}
    logs.cause.write_text(json.dumps(values | fields))


def write_job(run_dir: RunDir, job_id: str | None = "42", **record: Any) -> JobDir:
    """Write the folder of a submission."""
    job_dir = run_dir.job(1 + len(run_dir.job_dirs))
    job_dir.root.mkdir(parents=True)
    values = {
        "job_id": job_id,
        "array": None,
        "submitted": BEGAN.isoformat(),
        "options": {},
        "num_nodes": 2,
        "gpus_per_node": None,
        "ranks_per_node": 2,
        "time": "1:00:00",
        "lead_seconds": 240,
        "chain": 1,
        "after": [],
        "consent": [],
    }
    job_dir.record.write_text(json.dumps(values | record))
    return job_dir


def empty_run(folder: Path, name: str = "bot") -> RunDir:
    """Return a run folder that has settings and nothing else."""
    run_dir = RunDir(folder / name)
    run_dir.root.mkdir(parents=True)
    run_dir.resolved.write_text(f"run: {{name: {name}}}\ntrain: {{max_steps: 20}}\n")
    return run_dir
