"""Says what was submitted, or would be, and how to follow it."""

from __future__ import annotations

from launcher.cluster.slurm.plan import Submission
from launcher.files import read_object


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
    record = read_object(plan.jobs[0].record) or {}
    first = plan.jobs[0]
    log = first.log(job_id) if len(plan.jobs) == 1 else first.root / "slurm-<task's number>.log"
    lines = [f"submitted job {job_id}: {what(submission)}"]
    lines += [f"  script    {first.script}", f"  log       {log}"]
    warning = f"{plan.lead_seconds} s before a job's end all ranks save; it requeues itself"
    lines += [f"  warning   {warning} and resumes"]
    if record.get("after"):
        lines += [f"  after     {', '.join(record['after'])} (once ended well: afterok)"]
    lines += [f"  left out  {done.root}: already finished" for done in submission.finished]
    for job in plan.jobs:
        root = job.run_dir.root
        lines += [
            f"  follow    launcher status {root}",
            f"            launcher logs {root} --follow",
            f"            launcher stop {root}",
        ]
    return "\n".join([*lines, ""])
