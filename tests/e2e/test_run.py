"""`launcher run` on this machine: finishes, survives a kill, resumes, names one root cause."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.restarts import newest_step
from tests.support.launches import DEADLINE_SECONDS, ENDLESS, LAUNCHER, Launch, launch, start
from tests.support.training import events, records, run_folder, write_recipe

NEEDLESS = {
    "bitsandbytes", "datasets", "peft", "pyarrow", "sklearn", "torch._inductor.compile_fx",
}  # fmt: skip
"""What a start of full fine-tuning on JSONL doesn't import: each takes up to seconds."""
SECONDS_TO_THE_CAUSE = 5.0
SECONDS_TO_THE_END = 10.0
"""From a rank's death to the cause on disk; then all is over but for the launch's last lines."""


@pytest.fixture
def recipe(tiny_recipe: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return tiny_recipe(train={"max_steps": ENDLESS}, checkpoint={"every_steps": 40})


def test_killed_rank_is_named_and_the_same_command_resumes(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    """A whole life of the installed command: started, killed, resumed, finished, begun anew."""
    recipe["run"]["max_restarts"] = 0
    running = Launch(tmp_path, recipe, forked=False)
    run_dir = running.run_dir
    running.wait_for_checkpoint(40)
    ranks = running.ranks()
    assert len(ranks) == 2
    killed_at = time.time()
    ranks[1].send(signal.SIGKILL)
    code, _, stderr = running.end()
    caused_at = running.logs.cause.stat().st_mtime
    assert caused_at - killed_at <= SECONDS_TO_THE_CAUSE
    assert time.time() - caused_at <= SECONDS_TO_THE_END
    assert code == 1
    assert f"rank 1 on {socket.gethostname()} was killed by signal 9 (SIGKILL) at step" in stderr
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) <= 3

    last = newest_step(run_dir) + 12
    recipe["train"]["max_steps"] = last
    again = launch(tmp_path, recipe, "--allow-change", "train.max_steps", forked=False)
    assert again.returncode == 0, again.stderr
    assert sorted(records(run_dir, "train/loss")) == list(range(1, last + 1))
    assert [event["world_size"] for event in events(run_dir, "start")] == [2, 2]
    assert f"finished at step {last}" in again.stdout

    done = launch(tmp_path, recipe, forked=False)
    assert (done.returncode, len(events(run_dir, "start"))) == (0, 2)
    assert "already done" in done.stdout

    fresh = launch(tmp_path, recipe, "--fresh", "--set", "train.max_steps=1", forked=False)
    assert fresh.returncode == 0, fresh.stderr
    assert (run_dir.root.parent / "test-2" / "summary.json").exists()
    assert len(events(run_dir, "start")) == 2


def test_a_failing_run_says_one_thing(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """A rate of 1e30 makes the loss infinite: one sentence, not a wall of tracebacks."""
    recipe["train"]["learning_rate"] = 1.0e30
    failed = launch(tmp_path, recipe)
    assert failed.returncode == 1
    assert "the loss is nan" in failed.stderr or "gradient" in failed.stderr
    assert failed.stderr.count("step ") <= 3
    assert "Traceback" not in failed.stderr
    log = run_folder(recipe).logs(1).rank(0)
    assert log.exists()
    assert str(log.parent) in failed.stderr


def test_a_model_that_cannot_be_used_is_bad_input(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """What only the ranks can see still ends with exit code 2 and is said once."""
    recipe["method"] = {"type": "lora", "target_modules": ["querry"]}
    failed = launch(tmp_path, recipe)
    assert failed.returncode == 2
    assert failed.stderr.count("querry") == 1
    assert "query" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_accelerate_launch_by_hand(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["train"]["max_steps"] = 2
    path = write_recipe(tmp_path, recipe)
    prepared = subprocess.run([LAUNCHER, "prepare", str(path)], capture_output=True, text=True)
    assert prepared.returncode == 0, prepared.stderr
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    ranks = ["--use_deepspeed", "--num_processes", "2", "--num_machines", "1"]
    command = [accelerate, "launch", *ranks, "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [*command, "-m", "launcher.train", str(path)],
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (start,) = events(run_folder(recipe), "start")
    assert (start["world_size"], start["engine"], start["zero_stage"]) == (2, "DeepSpeedEngine", 2)
    assert json.loads(run_folder(recipe).summary.read_text())["step"] == 2
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported >= {"torch", "transformers", "deepspeed", "launcher.train.run"}
    assert not imported & NEEDLESS


def test_two_fresh_runs_at_once_take_a_folder_each(
    tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]]
) -> None:
    recipe = tiny_recipe(train={"max_steps": 1})
    path = write_recipe(tmp_path, recipe)
    both = [start("run", path, "--fresh") for _ in range(2)]
    ended = [process.communicate(timeout=DEADLINE_SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    runs = run_folder(recipe).root.parent
    assert {path.parent.name for path in runs.glob("*/summary.json")} == {"test", "test-2"}
