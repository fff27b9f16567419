"""The whole life of a job: it trains on two nodes, is warned or loses one, saves, and resumes."""

from __future__ import annotations

import copy
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from launcher.cluster.restarts import newest_step
from launcher.run_dir import RunDir
from tests.faults.setting import assert_same_run, resumed_from
from tests.support.jobs import SubmittedRun
from tests.support.launches import launch
from tests.support.ranks import run_ranks
from tests.support.slurm_cluster import SlurmCluster
from tests.support.training import base_recipe, events, records, run_folder, write_jsonl
from tests.support.wandb_file import run_ids

REPOSITORY = Path(__file__).resolve().parents[2]
NODE_LOSS_SECONDS = 30.0


def exported_loss(export: Path, rows: Path) -> float:
    """Return the loss per target of an exported adapter in plain peft and transformers."""
    (loss,) = run_ranks(1, _exported_loss, export, rows)
    return float(loss)


def _exported_loss(export: Path, rows: Path) -> float:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    model = AutoPeftModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(export)
    total, count = 0.0, 0
    with torch.no_grad():
        for line in rows.read_text().splitlines():
            chat = json.loads(line)["messages"]
            ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
            labels = ids["input_ids"]
            output = model(**ids, labels=labels)
            total += float(output.loss) * (labels.shape[1] - 1)
            count += labels.shape[1] - 1
    return total / count


def smollm2_recipe(folder: Path, model: Path, chats: Path, stage: str) -> dict[str, Any]:
    """Return the shipped LoRA recipe with fewer rows and steps."""
    recipe: dict[str, Any] = YAML(typ="safe").load(
        REPOSITORY / "recipes" / "quickstart-smollm2-lora.yaml"
    )
    for name, count in (("train", 48), ("validation", 12)):
        lines = (chats / f"{name}.jsonl").read_text().splitlines()[:count]
        path = write_jsonl(folder / f"{name}.jsonl", [json.loads(line) for line in lines])
        recipe["data"][name] = [{"path": str(path)}]
    recipe["run"] |= {"name": "nodes", "dir": str(folder / "runs"), "seed": 7}
    recipe["model"]["path"] = str(model)
    recipe["data"]["cache_dir"] = str(folder / "cache")
    recipe["train"] |= {"max_steps": 4, "micro_batch_size": 2, "warmup_steps": 1}
    recipe["evaluate"] = {"every_steps": 2, "micro_batch_size": 3}
    recipe["checkpoint"] = {"every_steps": 2}
    recipe["deepspeed"] = stage
    recipe["cluster"] = {"num_nodes": 2, "cpu_ranks": 2}
    del recipe["early_stopping"]
    return recipe


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_two_nodes_train_the_model_of_one(
    stage: str, slurm: SlurmCluster, tmp_path: Path, smollm2_dir: Path, chats_dir: Path
) -> None:
    recipe = smollm2_recipe(tmp_path, smollm2_dir, chats_dir, stage)
    job = SubmittedRun(slurm, tmp_path, recipe)
    job.finish()
    (start,) = events(job.run_dir, "start")
    assert (start["world_size"], start["num_nodes"]) == (4, 2)
    assert (start["engine"], start["zero_stage"]) == ("DeepSpeedEngine", int(stage[-1]))
    logs = job.run_dir.launches[-1]
    beats = [json.loads(path.read_text()) for path in logs.heartbeats]
    assert sorted(beat["rank"] for beat in beats) == [0, 1, 2, 3]
    assert len({beat["pid"] for beat in beats}) == 4
    attempt = json.loads(logs.attempt.read_text())
    assert (attempt["job_id"], attempt["nodes"]) == (job.job_id, ["n1", "n2"])

    alone = copy.deepcopy(recipe)
    alone["run"]["name"] = "one-node"
    alone["cluster"] = {"cpu_ranks": 4}
    done = launch(tmp_path, alone)
    assert done.returncode == 0, done.stderr
    whole = run_folder(alone)
    found = records(job.run_dir, "validation/loss")
    assert found == pytest.approx(records(whole, "validation/loss"), rel=1e-5)
    rows = Path(recipe["data"]["validation"][0]["path"])
    losses = [exported_loss(run_dir.export, rows) for run_dir in (job.run_dir, whole)]
    assert math.isfinite(losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


MAX_STEPS = 200
INTERVAL = MAX_STEPS // 4
LONG_STEPS = 1000
"""More than a job gets through before Slurm's warning."""


def life_recipe(folder: Path, model: Path, topics: Path, max_steps: int) -> dict[str, Any]:
    """Return the recipe of a run of seconds on two nodes, with dropout and offline wandb."""
    return base_recipe(
        folder,
        model,
        "sequence-classification",
        topics / "train.jsonl",
        run={"name": "life"},
        data={"validation": [{"path": str(topics / "validation.jsonl")}]},
        train={"max_steps": max_steps, "micro_batch_size": 2, "learning_rate": 1.0e-3},
        evaluate={"every_steps": max_steps // 4, "micro_batch_size": 8},
        checkpoint={"every_steps": max_steps // 4},
        logging={"wandb": {"project": "tests", "mode": "offline"}},
        cluster={"num_nodes": 2, "cpu_ranks": 2},
    )


@pytest.fixture
def recipe_of(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> Callable[[int], dict[str, Any]]:
    return functools.partial(life_recipe, tmp_path, tiny_bert_dir, small_topics)


@pytest.fixture
def recipe(recipe_of: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    return recipe_of(MAX_STEPS)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert_dir: Path, small_topics: Path
) -> Callable[[int], RunDir]:
    """Return the folder of the same run on four ranks of one node, which nothing happens to."""

    @functools.cache
    def run(max_steps: int) -> RunDir:
        folder = tmp_path_factory.mktemp("whole")
        whole = life_recipe(folder, tiny_bert_dir, small_topics, max_steps)
        whole["logging"] = {}
        whole["cluster"] = {"cpu_ranks": 4}
        done = launch(folder, whole)
        assert done.returncode == 0, done.stderr
        return run_folder(whole)

    return run


def assert_resumed(job: SubmittedRun, whole: RunDir) -> None:
    """One curve, one wandb run, and the step that was saved is the one that was gone on from."""
    assert_same_run(job.run_dir, whole)
    assert resumed_from(job.run_dir) > 0
    assert {start["world_size"] for start in events(job.run_dir, "start")} == {4}
    files = list(job.run_dir.wandb.rglob("*.wandb"))
    assert files
    assert len(set.union(*(run_ids(path) for path in files))) == 1


def by_time_limit(job: SubmittedRun) -> None:
    """The short job that is asked for below is warned by itself."""


def by_requeue(job: SubmittedRun) -> None:
    job.slurm.run("scontrol", "requeue", job.job_id)


def by_preemption(job: SubmittedRun) -> None:
    urgent = job.slurm.run(
        "sbatch", "--parsable", "--partition=high", "-N4", "--exclusive", "--output=/dev/null",
        "--wrap", "sleep 1",
    ).strip()  # fmt: skip
    assert job.slurm.wait_for_end(urgent, 90) == "COMPLETED"


def by_a_signal(job: SubmittedRun) -> None:
    job.slurm.run("scancel", "--signal=USR1", job.job_id)


@pytest.mark.parametrize("way", [by_time_limit, by_requeue, by_preemption, by_a_signal])
def test_a_job_that_is_ended_resumes_by_itself(
    way: Callable[[SubmittedRun], None],
    slurm: SlurmCluster,
    tmp_path: Path,
    recipe_of: Callable[[int], dict[str, Any]],
    uninterrupted: Callable[[int], RunDir],
) -> None:
    recipe = recipe_of(LONG_STEPS if way is by_time_limit else MAX_STEPS)
    if way is by_time_limit:
        recipe["cluster"]["time"] = "4"
        recipe["run"]["grace_seconds"] = 170  # warned as early as may be: no need to wait longer
    job = SubmittedRun(slurm, tmp_path, recipe)
    job.wait_for_step(INTERVAL + 2)
    way(job)
    job.wait_for_requeue()
    if way is by_time_limit:  # the next job of the chain is as short: it need not be seen through
        job.slurm.run("scontrol", "update", f"JobId={job.job_id}", "TimeLimit=30")
    job.finish_over_requeues()
    assert job.log.count("all-reduce of") == job.num_requeues + 1  # one log over all requeues
    assert_resumed(job, uninterrupted(recipe["train"]["max_steps"]))


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_lost_node_is_named_and_the_job_resumes_on_others(
    node: str,
    slurm: SlurmCluster,
    tmp_path: Path,
    recipe: dict[str, Any],
    uninterrupted: Callable[[int], RunDir],
) -> None:
    job = SubmittedRun(slurm, tmp_path, recipe)
    job.wait_for_step(INTERVAL + 2)
    # Written behind training: the nodes are not killed before there is something to resume from.
    job.wait_for(lambda: newest_step(job.run_dir) >= INTERVAL, "checkpoint")
    assert json.loads(job.run_dir.launches[-1].attempt.read_text())["nodes"] == ["n1", "n2"]
    slurm.kill_node(node)
    lost_at = time.monotonic()
    try:
        job.wait_for(job.run_dir.launches[0].cause.exists, "cause")
        assert time.monotonic() - lost_at <= NODE_LOSS_SECONDS
        cause = json.loads(job.run_dir.launches[0].cause.read_text())
        assert cause["nodes"] == [node]
        assert node in cause["message"]
        job.wait_for(lambda: slurm.state(job.job_id) != "RUNNING", "end of the first start")
        assert time.monotonic() - lost_at <= NODE_LOSS_SECONDS
        job.wait_for_requeue()
        job.finish_over_requeues()
    finally:
        slurm.start_node(node)
    attempts = [json.loads(logs.attempt.read_text()) for logs in job.run_dir.launches]
    assert node not in attempts[-1]["nodes"]
    assert_resumed(job, uninterrupted(MAX_STEPS))


def test_two_runs_at_once_on_one_node(
    slurm: SlurmCluster, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    jobs = []
    for name in ("first", "second"):
        own = copy.deepcopy(recipe)
        own["run"]["name"] = name
        own["cluster"] = {"num_nodes": 1, "cpu_ranks": 2, "partition": "cpu"}
        jobs.append(SubmittedRun(slurm, tmp_path, own))
    for job in jobs:
        job.wait_for_step(1)
    assert {slurm.state(job.job_id) for job in jobs} == {"RUNNING"}
    for job in jobs:
        job.finish()
    first, second = (records(job.run_dir, "train/loss") for job in jobs)
    assert first == second
    assert len(first) == MAX_STEPS
