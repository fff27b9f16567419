"""The cluster that the other tests of this tier stand on is real."""

from __future__ import annotations

import subprocess

import pytest

from launcher.cluster.slurm.host_list import hostnames
from tests.support.slurm_cluster import SlurmCluster


def test_four_nodes_run_one_step(slurm: SlurmCluster) -> None:
    printed = slurm.run("srun", "-N4", "--ntasks-per-node=1", "printenv", "SLURMD_NODENAME")
    assert sorted(printed.split()) == ["n1", "n2", "n3", "n4"]
    hosts = slurm.run("srun", "-N4", "hostname").split()
    assert hosts == [subprocess.check_output(["hostname"], text=True).strip()] * 4


def test_a_killed_node_is_found_down_and_comes_back(slurm: SlurmCluster) -> None:
    job_id = slurm.sbatch("sleep 600", "-w", "n4", "--no-requeue", "--output=/dev/null")
    slurm.wait_for_state(job_id, "RUNNING")
    slurm.wait_for(lambda: slurm.step_daemons("n4"), 10, "the step's daemon")
    processes = slurm.processes("n4")
    slurm.kill_node("n4")
    assert slurm.wait_for_end(job_id, 90) == "NODE_FAIL"
    assert not any(process.is_alive for process in processes)
    slurm.start_node("n4")
    slurm.wait_idle()


def test_a_requeued_job_starts_again(slurm: SlurmCluster) -> None:
    job_id = slurm.sbatch("sleep 600", "--requeue", "--output=/dev/null")
    slurm.wait_for_state(job_id, "RUNNING")
    slurm.wait_for(lambda: slurm.last_words(job_id), 10, "the step's daemon")
    slurm.run("scontrol", "requeue", job_id)
    slurm.start_now(job_id)
    slurm.wait_for(
        lambda: slurm.state(job_id) == "RUNNING" and slurm.job(job_id)["Restarts"] == "1",
        60,
        "the second start",
    )


@pytest.mark.parametrize(
    "nodes",
    [
        "n1",
        "m2,n1",
        "n[3,1-2]",
        "gpu-a[008-011,100],login",
        "rack[1-2]-node[01-03]",
        "a[9-11],c.cluster.example,b[0-1]",
    ],
)
def test_lists_of_nodes_are_read_as_slurm_reads_them(slurm: SlurmCluster, nodes: str) -> None:
    shown = slurm.run("scontrol", "show", "hostnames", nodes).split()
    assert list(hostnames(nodes)) == shown
