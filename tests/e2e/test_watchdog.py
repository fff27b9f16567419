"""A rank that hangs or runs out of memory is named, and nobody waits for it."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cgroups import MemoryLimit
from tests.support.launches import ENDLESS, Launch

TIMEOUT_SECONDS = 12.0
"""Longer than a busy machine takes for the first step of a fork: that counts too."""
MARGIN_SECONDS = 5.0


@pytest.fixture
def recipe(tiny_recipe: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return tiny_recipe(
        run={"timeout_seconds": TIMEOUT_SECONDS, "max_restarts": 0},
        train={"max_steps": ENDLESS},
        checkpoint={"every_steps": ENDLESS},
    )


def test_a_stopped_rank_is_named_with_the_stacks_of_the_others(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    running = Launch(tmp_path, recipe)
    running.wait_for_step(2)
    ranks = running.ranks()
    stopped_at = time.time()
    ranks[1].send(signal.SIGSTOP)
    code, _, stderr = running.end()
    ended_at = running.logs.cause.stat().st_mtime  # written once all ranks are gone
    assert ended_at - stopped_at <= TIMEOUT_SECONDS + MARGIN_SECONDS
    assert code == 1
    assert f"rank 1 on {socket.gethostname()} made no progress for" in stderr
    assert "its process is stopped" in stderr
    assert len(stderr.splitlines()) <= 3
    assert not any(rank.is_alive for rank in ranks)
    seen = json.loads(running.logs.watchdog.read_text())
    (late,) = seen["late"]
    assert (late["rank"], late["state"], late["phase"]) == (1, "T", "train")
    assert "torch/distributed" in running.logs.stacks(0).read_text()


def test_a_rank_without_memory_is_no_bare_kill(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """The kernel ends it with the same signal as anybody would."""
    recipe["run"]["timeout_seconds"] = 240.0
    with MemoryLimit() as limit:
        running = Launch(tmp_path, recipe)
        running.wait_for_step(2)
        limit.add(running.ranks()[1].pid, 1 << 20)  # the next buffer is too much
        code, _, stderr = running.end()
    assert code == 1
    for part in ("rank 1", "ran out of memory at step", "1 MiB", "train.micro_batch_size"):
        assert part in stderr
