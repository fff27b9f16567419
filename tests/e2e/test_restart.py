"""A launch outlives its ranks, nothing outlives the launch, and what the dead held is free."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.restarts import newest_step
from tests.support.launches import ENDLESS, Launch


@pytest.fixture
def recipe(tiny_recipe: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return tiny_recipe(
        train={"max_steps": ENDLESS}, checkpoint={"every_steps": 40}, run={"max_restarts": 9}
    )


def has_attempts(running: Launch, count: int) -> bool:
    return len(running.run_dir.launches) == count


def test_no_orphans_then_restarts_until_nothing_moves(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    first = Launch(tmp_path, recipe)
    first.wait_for_checkpoint(40)
    ranks = first.ranks()
    assert len(ranks) == 2
    first.process.kill()
    killed_at = time.monotonic()
    while any(rank.is_alive for rank in ranks):
        assert time.monotonic() - killed_at < 10
        time.sleep(0.05)
    first.end()

    newest = newest_step(first.run_dir)
    # From here on there is nothing new to go on from.
    recipe["checkpoint"]["every_steps"] = ENDLESS
    second = Launch(tmp_path, recipe, "--allow-change", "checkpoint.every_steps")
    for attempt in (2, 3, 4):
        second.wait_for(partial(has_attempts, second, attempt))
        second.wait_for(lambda: (second.beat(1).get("step") or 0) >= newest + 2)
        second.ranks()[1].send(signal.SIGKILL)
    code, _, stderr = second.end()
    assert code == 1
    assert stderr.count("was killed by signal 9") == 3
    assert [line for line in stderr.splitlines() if line.startswith("restart")] == [
        f"restart {number} of 9 from step-{newest:06d}." for number in (1, 2)
    ]
    assert "no progress in 3 attempts" in stderr.splitlines()[-1]
