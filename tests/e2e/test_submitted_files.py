"""A job trains by what was submitted, whatever becomes of the files that its recipe names."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.cluster.slurm.job_folder import make_job_folder, write_record
from launcher.cluster.slurm.plan import Request, Submission, plan_submission
from launcher.recipe.run_settings import write_settings
from launcher.run_dir import JobDir
from launcher.shipped import shipped_folder
from tests.support.launches import DEADLINE_SECONDS
from tests.support.tiny_tokenizers import CHATML, byte_tokenizer, write_rows
from tests.support.training import base_recipe, write_recipe

TEMPLATE = CHATML.replace("<|im_start|>", "<s>")


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two narrow random layers before a tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = byte_tokenizer(CHATML)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def submit_from(folder: Path, model: Path) -> JobDir:
    """Make a job folder as `launcher submit` does, of a recipe that names every kind of file."""
    chats = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]
        for n in range(8)
    ]
    rows = write_rows(folder / "rows.jsonl", [{"messages": chat} for chat in chats])
    recipe = base_recipe(
        folder,
        model,
        "causal-lm",
        Path(rows),
        train={"max_steps": 2, "global_batch_size": 2, "micro_batch_size": 1},
        cluster={"cpu_ranks": 1},
    )
    base = write_recipe(folder / "base", recipe)
    shutil.copy(shipped_folder("ds_configs") / "zero2.json", folder / "ds.json")
    (folder / "mine.jinja").write_text(TEMPLATE)
    top: dict[str, Any] = {"extends": str(base), "deepspeed": str(folder / "ds.json")}
    top["model"] = {"chat_template": str(folder / "mine.jinja")}
    plan = plan_submission(Request(write_recipe(folder, top)), needs_slurm=False)
    assert isinstance(plan, Submission)
    (job,), (run,) = plan.plan.jobs, plan.runs
    write_settings(run, job.run_dir)
    make_job_folder(job, run)
    write_record(plan.plan, plan.runs, plan.chain, job_id="4711", preparing=None)
    return job


def run_on_this_node(module: str, job: JobDir, *arguments: str) -> None:
    node = {
        "SLURM_JOB_ID": "4711",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": socket.gethostname(),
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | node,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_edited_or_deleted_after_the_submit_change_nothing(
    tmp_path: Path, tiny_llama: Path
) -> None:
    job = submit_from(tmp_path, tiny_llama)
    shutil.copy(shipped_folder("ds_configs") / "zero3.json", tmp_path / "ds.json")
    for name in ("mine.jinja", "recipe.yaml", "base/recipe.yaml"):
        (tmp_path / name).unlink()
    # As the job that prepares does, and then its first node.
    run_on_this_node("launcher.train.prepare", job, str(job.recipe))
    (tmp_path / "ds.json").unlink()
    run_on_this_node("launcher.cluster.slurm.node_entry", job, str(job.root))

    run_dir = job.run_dir
    assert json.loads(run_dir.ds_config.read_text())["zero_optimization"]["stage"] == 2
    assert json.loads(run_dir.summary.read_text())["outcome"] == "finished"
    assert (run_dir.export / "chat_template.jinja").read_text() == TEMPLATE
