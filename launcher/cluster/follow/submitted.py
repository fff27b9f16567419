"""What a run folder says of the Slurm job that was submitted for it last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launcher.attempts import Attempt
from launcher.cluster.follow.tail import lines_backwards
from launcher.files import read_object
from launcher.run_dir import JobDir, RunDir


@dataclass(frozen=True)
class Submitted:
    """The newest submission of a run, as its job folder keeps it."""

    job_dir: JobDir
    job_id: str | None
    """None where only the script was written."""
    submitted: str = ""
    """When, ISO 8601."""
    lead_seconds: int | None = None
    """How long before the time limit the job is warned."""
    requeued: bool = False
    """Whether the job put itself back in the queue when its step ended last."""

    def has_run(self, attempts: Sequence[Attempt]) -> bool:
        """Return whether an attempt of this submission has begun.

        Its folder tells: the number that a task of an array has in itself isn't that of its job.
        """
        return any(found.job_folder == f"jobs/{self.job_dir.root.name}" for found in attempts)


def newest_submission(run_dir: RunDir) -> Submitted | None:
    """Return what was submitted last; None where nothing was."""
    for job_dir in reversed(run_dir.job_dirs):
        record = read_object(job_dir.record)
        if record is not None:
            job_id = record.get("job_id")
            lead = record.get("lead_seconds")
            return Submitted(
                job_dir,
                None if job_id is None else str(job_id),
                str(record.get("submitted") or ""),
                int(lead) if isinstance(lead, int | float) else None,
                bool(_last_end(job_dir).get("requeued")),
            )
    return None


def _last_end(job_dir: JobDir) -> dict[str, Any]:
    for line in lines_backwards(job_dir.ended):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            return record
    return {}
