"""A node that is different is named within seconds, and the job goes on without it.

Slurm gives a job neighbours where it can: of n1 to n4 the first two, without n2 the last two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import SubmittedRun, submit_run
from tests.support.projects import write_site
from tests.support.slurm_cluster import SlurmCluster
from tests.support.training import base_recipe, records

ENTRY = Path(__file__).with_name("spoiled_entry.py")
PREFLIGHT_SECONDS = 30.0


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path, deepspeed_ops: None
) -> dict[str, Any]:
    return base_recipe(
        tmp_path,
        tiny_bert_dir,
        "sequence-classification",
        small_topics / "train.jsonl",
        train={"max_steps": 2, "micro_batch_size": 2},
        cluster={"num_nodes": 2, "cpu_ranks": 1},
    )


def submit(slurm: SlurmCluster, folder: Path, recipe: dict[str, Any], *spoils: str) -> SubmittedRun:
    """Submit a run of which some nodes are spoiled (see spoiled_entry.py)."""
    site = write_site(folder, " ".join((str(ENTRY), *spoils)))
    return submit_run(slurm, folder, recipe, "--site", str(site))


def preflight(job: SubmittedRun, start: int) -> dict[str, Any]:
    """Return what the preflight of a start saw."""
    found: dict[str, Any] = json.loads(job.run_dir.logs(start + 1).preflight.read_text())
    return found


def cause(job: SubmittedRun, start: int) -> dict[str, Any]:
    """Return why a start failed; no rank had been started, and the preflight was short."""
    job.wait_for(lambda: job.num_requeues > start, "requeue")
    found: dict[str, Any] = json.loads(job.run_dir.logs(start + 1).cause.read_text())
    assert not job.run_dir.logs(start + 1).heartbeats
    return found


def named(job: SubmittedRun, start: int, node: str, words: str) -> None:
    """Assert that a start's preflight named its second node, by what is wrong with it."""
    found = cause(job, start)
    assert found["nodes"] == [node], found
    assert f"node 1 ({node}) " in found["message"]
    assert words in found["message"], found
    assert preflight(job, start)["seconds"] <= PREFLIGHT_SECONDS


def finish(job: SubmittedRun, nodes: list[str]) -> None:
    """Assert that the job goes on, and on which nodes it ends."""
    job.finish()
    assert job.attempts[-1]["nodes"] == nodes
    assert preflight(job, len(job.attempts) - 1)["ok"]
    assert len(records(job.run_dir, "train/loss")) == 2


def test_bad_nodes_are_named_and_left_out_and_a_busy_port_is_passed_over(
    slurm: SlurmCluster, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    job = submit(
        slurm, tmp_path, recipe, "0:n2:other_version", "1:n4:unwritable_run_folder",
        "2:n1:busy_port",
    )  # fmt: skip
    named(job, 0, "n2", "has launcher 9.9.9, node 0 has 0.1.0")
    named(job, 1, "n4", "is read-only")
    finish(job, ["n1", "n3"])
    assert job.num_requeues == 2


def test_a_node_without_the_data_and_a_head_without_a_port_are_named_and_left_out(
    slurm: SlurmCluster, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    job = submit(slurm, tmp_path, recipe, "0:n2:missing_cache", "1:n3:busy_ports")
    named(job, 0, "n2", "has no prepared data")
    found = cause(job, 1)
    assert (found["category"], found["nodes"]) == ("port", ["n3"]), found
    assert "are all taken on n3" in found["message"]
    finish(job, ["n1", "n4"])
