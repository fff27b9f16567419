"""A node that is different is named within seconds, and the job goes on without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.run_dir import RunDir
from tests.support.jobs import SubmittedRun
from tests.support.slurm_cluster import SlurmCluster
from tests.support.training import base_recipe, records

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE.parent.parent / "slurm" / "train.sbatch"
ENTRY = "-m launcher.cluster.slurm.node_entry"
PREFLIGHT_SECONDS = 30.0


@pytest.fixture
def recipe(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> dict[str, Any]:
    return base_recipe(
        tmp_path,
        tiny_bert_dir,
        "sequence-classification",
        small_topics / "train.jsonl",
        train={"max_steps": 2, "micro_batch_size": 2},
        cluster={"num_nodes": 2, "cpu_ranks": 1},
    )


def submit(
    slurm: SlurmCluster, folder: Path, recipe: dict[str, Any], how: str, node: str
) -> SubmittedRun:
    """Submit a run of which one node is spoiled."""
    text = TEMPLATE.read_text()
    assert ENTRY in text
    (folder / "spoiled.sbatch").write_text(
        text.replace(ENTRY, f"{HERE / 'spoiled_entry.py'} {how} {node}")
    )
    (folder / "site.yaml").write_text("template: spoiled.sbatch\n")
    return SubmittedRun(slurm, folder, recipe, "--site", str(folder / "site.yaml"))


def seen_by(run_dir: RunDir, attempt: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_dir.logs(attempt).preflight.read_text())
    return found


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("other_version", "has launcher 9.9.9, node 0 has 0.1.0"),
        ("unwritable_run_folder", "is read-only"),
        ("missing_cache", "has no prepared data"),
    ],
)
def test_a_bad_node_is_named_and_left_out(
    how: str, words: str, slurm: SlurmCluster, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    job = submit(slurm, tmp_path, recipe, how, "n2")
    job.wait_for(lambda: job.num_requeues == 1, "requeue")
    cause = json.loads(job.run_dir.logs(1).cause.read_text())
    assert cause["nodes"] == ["n2"], cause
    assert "node 1 (n2) " in cause["message"]
    assert words in cause["message"], cause
    assert not job.run_dir.metrics.exists()  # no rank was started
    assert seen_by(job.run_dir, 1)["seconds"] <= PREFLIGHT_SECONDS
    job.finish_over_requeues()
    last = json.loads(job.run_dir.launches[-1].attempt.read_text())
    assert "n2" not in last["nodes"]
    assert seen_by(job.run_dir, last["attempt"])["ok"]
    assert len(records(job.run_dir, "train/loss")) == 2


def test_a_busy_port_is_passed_over(
    slurm: SlurmCluster, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    job = submit(slurm, tmp_path, recipe, "busy_port", "n1")
    job.finish()
    assert job.num_requeues == 0
    assert len(records(job.run_dir, "train/loss")) == 2


def test_a_head_without_a_free_port_is_named_and_left_out(
    slurm: SlurmCluster, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    job = submit(slurm, tmp_path, recipe, "busy_ports", "n1")
    job.wait_for(lambda: job.num_requeues == 1, "requeue")
    cause = json.loads(job.run_dir.logs(1).cause.read_text())
    assert (cause["category"], cause["nodes"]) == ("port", ["n1"]), cause
    assert "are all taken on n1" in cause["message"]
    job.finish_over_requeues()
    assert "n1" not in json.loads(job.run_dir.launches[-1].attempt.read_text())["nodes"]
