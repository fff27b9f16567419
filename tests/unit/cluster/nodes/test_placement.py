"""Ports come from the job, and what the options can't mean is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster.nodes.placement import NUM_PORTS, NodeOptions, Placement, port_for
from launcher.cluster.slurm.node_entry import placement_from
from launcher.errors import InputError


def test_neighbouring_jobs_share_no_port() -> None:
    ports = [
        set(Placement(2, 0, "h", port_for(str(job)), Path("k")).ports) for job in range(40, 60)
    ]
    assert sum(len(found) for found in ports) == len(set.union(*ports)) == 20 * NUM_PORTS
    assert all(20_000 <= port < 30_000 for found in ports for port in found)


def test_a_run_without_a_job_has_ports_by_its_folder() -> None:
    assert port_for("/runs/a") == port_for("/runs/a") != port_for("/runs/b")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (NodeOptions(2, 5, "localhost"), ["--node-rank: 5 is not one of 0 to 1"]),
        (NodeOptions(2), ["--node-rank: is missing", "--head: is missing"]),
        (NodeOptions(2, 0, "localhost", 80), ["--port: 80 is not between 1024"]),
        (NodeOptions(2, 0, "localhost", 65_535), ["--port: 65535 is not between"]),
        (NodeOptions(None, 1, "h", 9_000), ["--node-rank: 1", "--head: h", "--port: 9000"]),
        (NodeOptions(1, 1), ["--node-rank: 1 is for several nodes"]),
        (NodeOptions(2, 1, "no.such.host.invalid"), ['"no.such.host.invalid" does not resolve']),
    ],
)
def test_what_is_wrong_with_the_options_is_said_at_once(
    options: NodeOptions, said: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        options.check()
    for part in said:
        assert part in str(error.value)
    assert len(error.value.problems) == len(said)


@pytest.mark.parametrize(
    "options", [NodeOptions(), NodeOptions(1), NodeOptions(1, 0, "x"), NodeOptions(2, 1, "::1")]
)
def test_what_is_right_with_them(options: NodeOptions) -> None:
    options.check()


STEP = {
    "SLURM_JOB_ID": "42",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
}


def test_what_is_no_step_with_one_task_a_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SLURM_NODEID"):
        placement_from({"SLURM_JOB_ID": "42"}, tmp_path)
    with pytest.raises(InputError, match="2 tasks on 1 nodes"):
        placement_from(STEP, tmp_path)
