"""A rank that is several times slower than the other is named; nothing is killed for it."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.world import World
from tests.support.training import base_recipe, events, run_folder, train

SLOW_RANK = 1
STEPS = 8

# Runs 20 of every 100 ms, as on a machine with five times too much to do.
STOP_AND_GO = """
import os, select, signal, sys, time
rank = int(sys.argv[1])
while not select.select([sys.stdin], [], [], 0.02)[0]:
    os.kill(rank, signal.SIGSTOP)
    time.sleep(0.08)
    os.kill(rank, signal.SIGCONT)
"""


def _check_every_step() -> None:
    straggler: Any = importlib.import_module("launcher.train.straggler")
    straggler.CHECK_SECONDS = 0.0


def _stop_and_go() -> None:
    _check_every_step()
    if World.from_environment().rank != SLOW_RANK:
        return
    loop: Any = importlib.import_module("launcher.train.loop")
    train_step = loop.train_step
    helper: list[subprocess.Popen[bytes]] = []

    def slowed(session: Any, window: Any) -> Any:
        if not helper:
            command = [sys.executable, "-c", STOP_AND_GO, str(os.getpid())]
            helper.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        result = train_step(session, window)
        if window.step == STEPS - 1:
            helper[0].communicate()  # ends it, and never while this rank is stopped
        return result

    loop.train_step = slowed


def _train(
    folder: Path, model: Path, chats: Path, stage: str, sabotage: Callable[[], None]
) -> list[dict[str, Any]]:
    """Train adapters only, so that forward passes are a good part of a step, as on GPUs."""
    recipe = base_recipe(
        folder,
        model,
        "causal-lm",
        chats / "train.jsonl",
        method={"type": "lora"},
        train={"max_steps": STEPS, "global_batch_size": 16, "micro_batch_size": 4},
        deepspeed=stage,
    )
    train(recipe, folder, 2, sabotage=sabotage)
    run_dir = run_folder(recipe)
    assert len(events(run_dir, "finish")) == 1
    return events(run_dir, "warning")


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_a_slow_rank_is_named_once_and_the_run_goes_on(
    stage: str, tmp_path: Path, smollm2_cut_dir: Path, chats_dir: Path
) -> None:
    (warning,) = _train(tmp_path, smollm2_cut_dir, chats_dir, stage, _stop_and_go)
    assert (warning["rank"], warning["host"]) == (SLOW_RANK, socket.gethostname())
    assert warning["ratio"] > 2.5
    assert warning["local_seconds"] > 2.5 * warning["median_seconds"]
    assert f"rank 1 on {socket.gethostname()} is slow" in warning["message"]


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_equal_ranks_are_not_warned_of(
    stage: str, tmp_path: Path, smollm2_cut_dir: Path, chats_dir: Path
) -> None:
    assert not _train(tmp_path, smollm2_cut_dir, chats_dir, stage, _check_every_step)
