"""A job folder: the recipe, the script and the record of one job, kept as they were submitted."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from launcher.cluster.restarts import newest_step
from launcher.cluster.slurm.chain import Chain
from launcher.cluster.slurm.script import JobPlan
from launcher.files.remove import remove
from launcher.files.write import make_folder, replace_text, write_private
from launcher.recipe.named_files import keep_copies
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import JobDir

KEY_BYTES = 32


def make_job_folder(job: JobDir, resolved: ResolvedRun) -> None:
    """Make a job folder with what the job runs and what its nodes know each other by."""
    make_folder(job.root)
    replace_text(job.recipe, resolved.to_yaml())
    keep_copies(resolved.files, job.root)
    write_private(job.meeting_key, secrets.token_hex(KEY_BYTES))


def write_record(
    plan: JobPlan,
    resolved: Sequence[ResolvedRun],
    chain: Chain,
    *,
    job_id: str | None,
    preparing: str | None,
) -> None:
    """Write `job.json` into each job folder of a plan; a task's number is that in the array.

    `preparing`: the number of the job that prepares the data for it.
    """
    is_array = len(plan.jobs) > 1
    tasks = [str(job.run_dir.root) for job in plan.jobs]
    for index, (job, run) in enumerate(zip(plan.jobs, resolved, strict=True)):
        cluster = run.recipe.cluster
        record: dict[str, Any] = {
            "job_id": f"{job_id}_{index}" if is_array and job_id else job_id,
            "array": {"job_id": job_id, "task": index, "tasks": tasks} if is_array else None,
            "prepared_by": preparing,
            "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
            "options": plan.options(),
            "num_nodes": cluster.num_nodes,
            "gpus_per_node": cluster.gpus_per_node,
            "ranks_per_node": plan.wanted.ranks_per_node,
            "time": chain.limit,
            "lead_seconds": plan.lead_seconds,
            "chain": chain.num_jobs,
            "after": list(plan.after),
            "checkpoint": newest_step(job.run_dir),
            "consent": run.consent.options(),
        }
        replace_text(job.record, json.dumps(record, indent=1))


def remove_job_folders(jobs: Sequence[JobDir]) -> None:
    """Remove the folders of jobs that were never submitted."""
    for job in jobs:
        with contextlib.suppress(OSError):  # why it was not submitted is worth more
            remove(job.root, within=job.run_dir.root)
