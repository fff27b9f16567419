"""The process that prepares data belongs to the command that asked for it: its ranks, its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from launcher.process import Process, children_of
from tests.support.launches import launch, run, start
from tests.support.training import events, run_folder, write_recipe

T = TypeVar("T")
SECONDS = 60.0


def test_it_is_told_how_many_ranks_there_are(
    tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]]
) -> None:
    """Three ranks divide the batch; the four of the recipe don't."""
    sizes = {"global_batch_size": 6, "micro_batch_size": 2, "max_steps": 1}
    recipe = tiny_recipe(train=sizes)
    recipe["cluster"]["cpu_ranks"] = 4
    refused = run("prepare", write_recipe(tmp_path, recipe))
    assert refused.returncode == 2, refused.stderr
    done = launch(tmp_path, recipe, "--processes", "3")
    assert done.returncode == 0, done.stderr
    (started,) = events(run_folder(recipe), "start")
    assert started["world_size"] == 3


def test_it_ends_with_the_command(
    tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]]
) -> None:
    command = start("prepare", write_recipe(tmp_path, tiny_recipe()), forked=False)
    child = wait_for(lambda: preparing(command.pid))
    child.send(signal.SIGSTOP)  # else it might end by itself
    command.kill()
    command.communicate()
    wait_for(lambda: not child.is_alive)


def preparing(pid: int) -> Process | None:
    """Return the child that prepares, once it has become that."""
    for child in children_of(pid):
        words = Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")
        if b"launcher.train.prepare" in words[:3]:
            return child
    return None


def wait_for(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
