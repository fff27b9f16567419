"""The node entry in real steps of real jobs: the nodes train together, and a lost one is named."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.run_dir import RunDir
from tests.support.launches import LAUNCHER, compact
from tests.support.slurm_cluster import SlurmCluster
from tests.support.training import base_recipe, events, records, run_folder, write_recipe


@pytest.fixture
def recipe(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> dict[str, Any]:
    return base_recipe(
        tmp_path,
        tiny_bert_dir,
        "sequence-classification",
        small_topics / "train.jsonl",
        run={"timeout_seconds": 90.0},
        train={"max_steps": 6, "micro_batch_size": 2},
        cluster={"num_nodes": 2, "cpu_ranks": 2},
    )


def submit(folder: Path, recipe: dict[str, Any]) -> tuple[str, RunDir]:
    path = write_recipe(folder, recipe)
    done = subprocess.run(
        [LAUNCHER, "submit", str(path)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"submitted job (\d+)", done.stdout)
    assert found, done.stdout
    return found[1], run_folder(recipe)


def attempt(run_dir: RunDir, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_dir.logs(number).attempt.read_text())
    return found


def test_two_nodes_of_a_job_train_together(
    tmp_path: Path, slurm: SlurmCluster, recipe: dict[str, Any]
) -> None:
    job_id, run_dir = submit(tmp_path, recipe)
    state = slurm.wait_for_end(job_id, seconds=150)
    printed = run_dir.job_dirs[0].log(job_id).read_text()
    assert state == "COMPLETED", printed
    (start,) = events(run_dir, "start")
    assert (start["world_size"], start["num_nodes"]) == (4, 2)
    assert len(records(run_dir, "train/loss")) == 6
    told = attempt(run_dir, 1)
    assert (told["command"], told["job_id"], told["job_folder"]) == (
        "launcher submit", job_id, "jobs/001",
    )  # fmt: skip
    assert (told["restart_count"], told["outcome"]) == (0, "finished")
    nodes = told["nodes"]
    assert len(set(nodes)) == 2
    hosts = [json.loads(run_dir.logs(1).heartbeat(r).read_text())["host"] for r in range(4)]
    assert hosts == [nodes[0], nodes[0], nodes[1], nodes[1]]
    seen = json.loads(run_dir.logs(1).preflight.read_text())
    assert (seen["ok"], [node["host"] for node in seen["nodes"]]) == (True, nodes)
    assert printed.count("all-reduce of 16 MiB over 2 nodes") == 1


def test_a_node_that_is_lost_is_named(
    tmp_path: Path, slurm: SlurmCluster, recipe: dict[str, Any]
) -> None:
    """The processes of the second node end at once, and its daemon with them."""
    recipe["train"]["max_steps"] = 100_000
    _, run_dir = submit(tmp_path, recipe)
    deadline = time.monotonic() + 120
    while not (run_dir.metrics.exists() and '"step":2,' in compact(run_dir.metrics)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lost = attempt(run_dir, 1)["nodes"][1]
    lost_at = time.monotonic()
    try:
        slurm.kill_node(lost)
        while not run_dir.logs(1).cause.exists():
            assert time.monotonic() - lost_at < 30
            time.sleep(0.1)
        cause = json.loads(run_dir.logs(1).cause.read_text())
        assert (cause["category"], cause["nodes"]) == ("node", [lost])
        assert f"({lost}, " in cause["message"]
    finally:
        slurm.start_node(lost)
        slurm.cancel_all()
