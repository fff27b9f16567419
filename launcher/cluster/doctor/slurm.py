"""Slurm as it is seen from here: its commands, partitions, and the allocation around this shell."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from launcher.cluster.doctor.check import Check
from launcher.cluster.follow.text import duration, names
from launcher.cluster.slurm.commands import SlurmError, ask, has_slurm
from launcher.cluster.slurm.queue import find_jobs

LAST_WORDS = re.compile(r"(?:error|fatal): ")
# https://slurm.schedmd.com/sinfo.html#OPT_format: partition, up or not, limit, nodes by state
# (allocated/idle/other/total), processors and memory of a node, generic resources.
FORMAT = "%R|%a|%l|%F|%c|%m|%G"


def slurm(environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Return what Slurm offers; one line where there is none."""
    if not has_slurm():
        return [Check("Slurm", "ok", "not here: `launcher run` works, `launcher submit` doesn't")]
    try:
        version = ask("sinfo", "--version").strip()
        rows = ask("sinfo", "--noheader", f"--format={FORMAT}").splitlines()
    except SlurmError as error:
        cure = "Set SLURM_CONF, or ask whether slurmctld runs; `launcher run` works without."
        said = LAST_WORDS.split(error.said)[-1]
        return [Check("Slurm", "warning", f"installed, and has no answer: {said}", cure)]
    return [
        Check("Slurm", "ok", version),
        *(_partition(row) for row in rows),
        *_allocation(environ),
    ]


def _partition(row: str) -> Check:
    name, up, limit, nodes, processors, megabytes, generic = row.split("|")
    _, idle, _, total = nodes.split("/")
    size = f"{processors} processors, {int(megabytes.rstrip('+')) / 1024:,.0f} GiB"
    gres = "" if generic == "(null)" else f", {generic}"
    found = f"{name}: at most {limit}, {idle} of {total} nodes idle ({size}{gres} each)"
    if up != "up":
        return Check("partition", "warning", f"{found}, {up}", "Choose another one.")
    return Check("partition", "ok", found)


def _allocation(environ: Mapping[str, str]) -> list[Check]:
    job_id = environ.get("SLURM_JOB_ID")
    if not job_id:
        return [Check("allocation", "ok", "none: this is no job")]
    job = find_jobs([job_id]).get(job_id)
    nodes = names(job.nodes) if job is not None else environ.get("SLURM_JOB_NODELIST", "?")
    gpus = environ.get("SLURM_GPUS_ON_NODE", "0")
    left = job.time_left_seconds if job is not None else None
    end = environ.get("SLURM_JOB_END_TIME", "")
    seconds = left if left is not None else int(end) - time.time() if end.isdigit() else None
    found = f"job {job_id} on {nodes}; {gpus} GPUs on this node; {duration(seconds)} left"
    return [Check("allocation", "ok", found)]
