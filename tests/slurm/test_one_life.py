"""One short life of a job on a real Slurm: two nodes train, are warned, save, resume, finish."""

from __future__ import annotations

import json
from pathlib import Path

from launcher.cluster.restarts import newest_step
from tests.support.jobs import ended
from tests.support.lives import Lives
from tests.support.slurm_cluster import SlurmCluster


def test_a_job_that_is_warned_saves_and_resumes_by_itself(
    slurm: SlurmCluster, tmp_path: Path, lives: Lives
) -> None:
    job = lives.submit(slurm, tmp_path)
    job.wait_for_start(1)
    slurm.run("scancel", "--signal=USR1", job.job_id)
    job.wait_for_requeue()
    stopped = json.loads(job.run_dir.launches[0].stopped.read_text())
    assert newest_step(job.run_dir) == stopped["step"] >= 3  # saved where it was
    job.finish()
    assert [record["requeued"] for record in ended(job.job)] == [True, False]
    assert job.log.count("all-reduce of 16 MiB over 2 nodes") == 2  # one log over both starts
    lives.assert_resumed(job)
