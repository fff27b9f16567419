"""What a run folder says of the Slurm job that was submitted for it last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.attempts import Attempt
from launcher.cluster.follow.tail import lines_backwards
from launcher.files.lines import parse_record
from launcher.files.read import Record, read_object
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
            return Submitted(
                job_dir,
                record.text("job_id"),
                record.text("submitted") or "",
                record.integer("lead_seconds"),
                _last_end(job_dir).get("requeued") is True,
            )
    return None


def _last_end(job_dir: JobDir) -> Record:
    found = (parse_record(line) for line in lines_backwards(job_dir.ended))
    return next((record for record in found if record is not None), Record())
