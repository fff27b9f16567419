"""Says what was submitted, or would be, and how to follow it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from launcher.cluster.slurm.plan import Submission
from launcher.files.read import read_record
from launcher.run_dir import RunDir


def what(submission: Submission) -> str:
    """Return a job in one line: what, where, how long."""
    plan, cluster = submission.plan, submission.runs[0].recipe.cluster
    of_node = (
        f"{cluster.gpus_per_node} GPUs"
        if cluster.gpus_per_node
        else f"{plan.wanted.ranks_per_node} CPU ranks"
    )
    where = f", partition {','.join(submission.partitions)}" if submission.partitions else ""
    count = f" as an array of {len(plan.jobs)}" if len(plan.jobs) > 1 else ""
    nodes = f"{cluster.num_nodes} node{'s' if cluster.num_nodes > 1 else ''}"
    return f"{plan.name}{count}: {nodes} x {of_node}{where}; {submission.chain.words}"


def words_of(submission: Submission, job_id: str) -> str:
    """Return what to say of a job that was submitted, with the commands that follow it."""
    plan = submission.plan
    record = read_record(plan.jobs[0].record)
    first = plan.jobs[0]
    of_task = "jobs/NNN/slurm-JOB.log in each run folder"
    log = first.log(job_id) if len(plan.jobs) == 1 else of_task
    lines = [f"submitted job {job_id}: {what(submission)}"]
    lines += [f"  script    {first.script}", f"  log       {log}"]
    warning = f"{plan.lead_seconds} s before a job's end all ranks save; it requeues itself"
    lines += [f"  warning   {warning} and resumes"]
    if record.get("after"):
        lines += [f"  after     {', '.join(record['after'])} (once ended well: afterok)"]
    lines += [f"  left out  {done.root}: already finished" for done in submission.finished]
    return "\n".join([*lines, *_follow([job.run_dir for job in plan.jobs]), ""])


def _follow(run_dirs: Sequence[RunDir]) -> list[str]:
    """Return the commands that follow a run, or the tasks of an array."""
    roots = [shlex.quote(str(run_dir.root)) for run_dir in run_dirs]
    if len(roots) > 1:
        tasks = [f"  task {index:<4d} {root}" for index, root in enumerate(roots)]
        folder = shlex.quote(str(run_dirs[0].root.parent))
        return [*tasks, f"  follow    launcher runs {folder}"]
    return [
        f"  follow    launcher status {roots[0]}",
        f"            launcher logs {roots[0]} --follow",
        f"            launcher stop {roots[0]}",
    ]
