"""The whole life of a job: it is ended in every way that Slurm has, saves, and resumes."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from launcher.cluster.restarts import newest_step
from tests.support.jobs import SubmittedRun, ended
from tests.support.lives import INTERVAL, Lives
from tests.support.slurm_cluster import SlurmCluster
from tests.support.training import events, records

NODE_LOSS_SECONDS = 30.0
GRACE_SECONDS = 170
LIMIT_MINUTES = 4
"""Slurm warns up to a minute early: soon after a job that has run for long has this limit."""


def by_requeue(job: SubmittedRun) -> None:
    job.slurm.run("scontrol", "requeue", job.job_id)


def by_preemption(job: SubmittedRun) -> None:
    options = ("--partition=high", "-N4", "--exclusive", "--output=/dev/null")
    with job.paused():
        urgent = job.slurm.sbatch("true", *options)
        job.wait_for_signal(signal.SIGUSR1, signal.SIGTERM)
    assert job.slurm.wait_for_end(urgent, 90) == "COMPLETED"


def by_time_limit(job: SubmittedRun) -> None:
    with job.paused():
        job.slurm.run("scontrol", "update", f"JobId={job.job_id}", f"TimeLimit={LIMIT_MINUTES}")
        job.wait_for_signal(signal.SIGUSR1)
    # The next start has the same limit: it need not be warned as well.
    job.wait_for(lambda: job.slurm.state(job.job_id) == "PENDING", "requeue")
    job.slurm.run("scontrol", "update", f"JobId={job.job_id}", "TimeLimit=30")


def test_a_job_that_is_ended_resumes_by_itself(
    slurm: SlurmCluster, tmp_path: Path, lives: Lives
) -> None:
    job = lives.submit(slurm, tmp_path, run={"grace_seconds": GRACE_SECONDS})
    assert f"#SBATCH --signal=USR1@{GRACE_SECONDS}\n" in job.job.script.read_text()
    ways = (by_requeue, by_preemption, by_time_limit)
    for number, way in enumerate(ways, start=1):
        job.wait_for_start(number)
        way(job)
        job.wait_for_requeue(number)
    job.finish()
    starts = events(job.run_dir, "start")
    steps = [start["resumed_from"] for start in starts]
    assert len(starts) == 1 + len(ways)
    assert 0 == steps[0] < steps[1] < steps[2] < steps[3]
    # A job that is preempted is killed within seconds: it may not come to its own record.
    *_, warned, last = ended(job.job)
    assert (warned["requeued"], last["requeued"]) == (True, False)
    assert warned["why"].startswith("stopped in time")
    assert job.log.count("all-reduce of") == job.num_requeues + 1  # one log over all requeues
    lives.assert_resumed(job)


def test_a_lost_node_is_named_and_the_job_resumes_on_others(
    slurm: SlurmCluster, tmp_path: Path, lives: Lives
) -> None:
    """First the second node is lost, then the first, which also carries the batch script."""
    job = lives.submit(slurm, tmp_path)
    # Written behind training: no node is killed before there is something to resume from.
    job.wait_for(lambda: newest_step(job.run_dir) >= INTERVAL, "checkpoint")
    assert job.attempts[-1]["nodes"] == ["n1", "n2"]
    try:
        lost_at = lose(job, "n2", 0)
        job.wait_for(
            lambda: slurm.state(job.job_id) != "RUNNING", "end of the start", NODE_LOSS_SECONDS
        )
        assert time.monotonic() - lost_at <= NODE_LOSS_SECONDS
        slurm.declare_down("n2")
        job.wait_for_start(2)
        begun = events(job.run_dir, "start")[-1]["resumed_from"]
        job.wait_for(lambda: newest_step(job.run_dir) > begun, "checkpoint")
        assert job.attempts[-1]["nodes"] == ["n3", "n4"]  # Slurm takes neighbours where it can
        lost_at = lose(job, "n3", 1)
        job.wait_for(lambda: not slurm.processes("n4"), "end of the others", NODE_LOSS_SECONDS)
        assert time.monotonic() - lost_at <= NODE_LOSS_SECONDS
        # Its batch script is gone with it: Slurm itself requeues the job once it misses the node.
        job.wait_for_requeue(2)
        job.finish()
    finally:
        for node in ("n2", "n3"):
            slurm.start_node(node)
    assert job.attempts[-1]["nodes"] == ["n1", "n4"]
    lives.assert_resumed(job)


def lose(job: SubmittedRun, node: str, attempt: int) -> float:
    """Kill a node of a job, which is named within the time promised; return when it was killed."""
    job.slurm.kill_node(node)
    lost_at = time.monotonic()
    logs = job.run_dir.launches[attempt]
    job.wait_for(logs.cause.exists, "cause", NODE_LOSS_SECONDS)
    assert time.monotonic() - lost_at <= NODE_LOSS_SECONDS
    cause = json.loads(logs.cause.read_text())
    assert (cause["category"], cause["nodes"]) == ("node", [node])
    assert f"({node}, " in cause["message"]
    return lost_at


def test_two_runs_at_once_on_one_node(slurm: SlurmCluster, tmp_path: Path, lives: Lives) -> None:
    def submit(name: str) -> SubmittedRun:
        sections = {
            "run": {"name": name},
            "train": {"max_steps": 20},
            "evaluate": {"every_steps": 10},
            "checkpoint": {"every_steps": 10},
            "logging": {"wandb": None},
            "cluster": {"num_nodes": 1, "cpu_ranks": 2, "partition": "cpu"},
        }
        return lives.submit(slurm, tmp_path, **sections)

    first = submit("first")
    first.wait_for_step(1)
    with first.paused():
        second = submit("second")
        second.wait_for_step(1)
        assert {slurm.state(job.job_id) for job in (first, second)} == {"RUNNING"}
    for job in (first, second):
        job.finish()
    losses = [records(job.run_dir, "train/loss") for job in (first, second)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 20
