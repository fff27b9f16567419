"""How long a job is, and how many jobs one after another a run of the wanted length needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.cluster.slurm.durations import duration, seconds_of
from launcher.cluster.slurm.limits import Partition
from launcher.cluster.slurm.options import Wanted
from launcher.errors import Problem
from launcher.recipe.tree import DEFAULT

EARLY_SECONDS = 60
"""Slurm may send the warning as much before the time it was asked for (man sbatch, --signal)."""


@dataclass(frozen=True)
class Chain:
    """The time of one job, and of the jobs that it becomes."""

    limit: str | None
    """What sbatch gets; None: the partition's default."""
    limit_seconds: int | None
    """The limit of one job as far as it is known."""
    num_jobs: int
    """How many jobs the run takes if the wanted time is right."""
    words: str
    """The same for people."""


def plan_chain(
    wanted: Wanted, partitions: Sequence[Partition], lead_seconds: int
) -> Chain | Problem:
    """Return the time of a job in these partitions (none: nothing is known of them).

    A Problem where the warning before the end would come before the job has begun.
    """
    time = wanted.resolved.recipe.cluster.time
    names = ",".join(partition.name for partition in partitions)
    most = min((p.max_seconds for p in partitions if p.max_seconds is not None), default=None)
    if time is None:
        usual = [p.usual_seconds for p in partitions if p.usual_seconds is not None]
        limit = min(usual, default=None)
        known = f"the default of partition {names}, " if names else "the partition's default"
        length = duration(limit) if limit is not None else ("no limit" if names else "")
        chain = Chain(None, limit, 1, f"no cluster.time: {known}{length}")
    else:
        chain = _chain(time, most, names, lead_seconds)
    earliest = lead_seconds + EARLY_SECONDS
    if chain.limit_seconds is not None and chain.limit_seconds <= earliest:
        message = (
            f"a job of {duration(chain.limit_seconds)} is not longer than the warning before its"
            f" end: {lead_seconds} s, in which the run has to finish a step and save, and up to"
            f" {EARLY_SECONDS} s by which Slurm may be early."
        )
        place = wanted.resolved.origins.get("cluster.time", DEFAULT)
        return Problem(place, "cluster.time", message, "Ask for more time, or another partition.")
    return chain


def _chain(time: str, most: int | None, names: str, lead_seconds: int) -> Chain:
    seconds = seconds_of(time)
    if most is None or (seconds is not None and seconds <= most):
        return Chain(time, seconds, 1, "no limit" if seconds is None else duration(seconds))
    if seconds is None:
        words = f"jobs of {duration(most)}, the most that partition {names} gives, until it is done"
        return Chain(duration(most), most, 1, words)
    num_jobs = math.ceil(seconds / max(60, most - lead_seconds - EARLY_SECONDS))
    words = (
        f"about {num_jobs} jobs of {duration(most)} one after another: cluster.time is"
        f" {duration(seconds)} and partition {names} gives no more to one"
    )
    return Chain(duration(most), most, num_jobs, words)
