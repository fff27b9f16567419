"""The nodes of a job train one model together, and it is the one that a single node makes."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.jobs import REPOSITORY, submit_run
from tests.support.ranks import run_ranks
from tests.support.slurm_cluster import SlurmCluster
from tests.support.training import events, records, run_folder, train, write_jsonl

MAX_STEPS = 3


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
    """Return the shipped LoRA recipe with fewer layers, rows and steps."""
    recipe: dict[str, Any] = YAML(typ="safe").load(
        REPOSITORY / "recipes" / "quickstart-smollm2-lora.yaml"
    )
    for name, count in (("train", 24), ("validation", 8)):
        lines = (chats / f"{name}.jsonl").read_text().splitlines()[:count]
        path = write_jsonl(folder / f"{name}.jsonl", [json.loads(line) for line in lines])
        recipe["data"][name] = [{"path": str(path)}]
    recipe["run"] |= {"name": "nodes", "dir": str(folder / "runs"), "seed": 7}
    recipe["model"]["path"] = str(model)
    recipe["data"]["cache_dir"] = str(folder / "cache")
    recipe["data"]["max_seq_len"] = 64
    recipe["train"] |= {"max_steps": MAX_STEPS, "micro_batch_size": 2, "warmup_steps": 1}
    recipe["evaluate"] = {"every_steps": 1, "micro_batch_size": 2}
    recipe["checkpoint"] = {"every_steps": MAX_STEPS}
    recipe["deepspeed"] = stage
    del recipe["early_stopping"]
    return recipe


@pytest.mark.parametrize(("stage", "ranks_per_node"), [("zero2", 1), ("zero3", 2)])
def test_two_nodes_train_the_model_of_one(
    stage: str,
    ranks_per_node: int,
    slurm: SlurmCluster,
    tmp_path: Path,
    smollm2_cut_dir: Path,
    chats_dir: Path,
    deepspeed_ops: None,
) -> None:
    recipe = smollm2_recipe(tmp_path, smollm2_cut_dir, chats_dir, stage)
    recipe["cluster"] = {"num_nodes": 2, "cpu_ranks": ranks_per_node}
    world_size = 2 * ranks_per_node
    job = submit_run(slurm, tmp_path, recipe)
    job.finish()
    (start,) = events(job.run_dir, "start")
    assert (start["world_size"], start["num_nodes"]) == (world_size, 2)
    assert (start["engine"], start["zero_stage"]) == ("DeepSpeedEngine", int(stage[-1]))
    assert len(records(job.run_dir, "train/loss")) == MAX_STEPS
    logs = job.run_dir.logs(1)
    (told,) = job.attempts
    assert (told["command"], told["job_id"], told["job_folder"]) == (
        "launcher submit", job.job_id, "jobs/001",
    )  # fmt: skip
    assert (told["restart_count"], told["outcome"]) == (0, "finished")
    assert told["nodes"] == ["n1", "n2"]
    beats = [json.loads(logs.heartbeat(rank).read_text()) for rank in range(world_size)]
    assert [beat["rank"] for beat in beats] == list(range(world_size))
    assert len({beat["pid"] for beat in beats}) == world_size == len(logs.heartbeats)
    assert [beat["host"] for beat in beats] == ["n1"] * ranks_per_node + ["n2"] * ranks_per_node
    seen = json.loads(logs.preflight.read_text())
    assert (seen["ok"], [node["host"] for node in seen["nodes"]]) == (True, told["nodes"])
    assert job.log.count("all-reduce of 16 MiB over 2 nodes") == 1

    alone = copy.deepcopy(recipe)
    alone["run"]["name"] = "one-node"
    alone["cluster"] = {"cpu_ranks": world_size}
    train(alone, tmp_path / "alone", world_size)
    whole = run_folder(alone)
    found = records(job.run_dir, "validation/loss")
    assert found == pytest.approx(records(whole, "validation/loss"), rel=1e-5)
    rows = Path(recipe["data"]["validation"][0]["path"])
    losses = [exported_loss(run_dir.export, rows) for run_dir in (job.run_dir, whole)]
    assert math.isfinite(losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
