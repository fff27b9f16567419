"""One attempt at a run on forked ranks, which may be killed: their exit codes, nothing raised."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from launcher.run_dir import RunDir
from tests.support.ranks import start_ranks
from tests.support.training import prepare, run_folder, write_recipe

Sabotage = Callable[[int], None]
"""Called in each rank with its number, before it trains."""


@dataclass(frozen=True)
class Attempt:
    """How the ranks of one attempt ended."""

    statuses: list[int]
    """Exit codes as the shell has them; negative: the signal."""
    output: list[str]
    run_dir: RunDir

    @property
    def text(self) -> str:
        """Everything that the ranks printed."""
        return "\n".join(self.output)


def attempt(
    recipe: dict[str, Any],
    folder: Path,
    sabotage: Sabotage | None = None,
    *,
    world_size: int = 2,
    meanwhile: Callable[[list[int]], None] | None = None,
    deadline_seconds: float = 120.0,
    prepares: bool = True,
    terminal: Callable[[], TextIO] | None = None,
) -> Attempt:
    """Run forked ranks to their end; `meanwhile` gets their process ids while they run.

    `terminal` opens in each rank what it shows progress on; where it is absent, its own output.
    """
    path = write_recipe(folder, recipe)
    if prepares:
        prepare(path)
    ranks = start_ranks(world_size, _rank, path, sabotage, terminal)
    if meanwhile is not None:
        meanwhile(ranks.pids)
    statuses = ranks.wait(deadline_seconds)
    return Attempt(statuses, ranks.output(), run_folder(recipe))


def _rank(path: Path, sabotage: Sabotage | None, terminal: Callable[[], TextIO] | None) -> None:
    torch.set_num_threads(1)
    from launcher.errors import LauncherError
    from launcher.recipe.resolve import resolve
    from launcher.train.run import run_rank
    from launcher.train.watch import start_watch
    from launcher.world import World

    world = World.from_environment()
    watch = start_watch(world)
    try:
        if sabotage is not None:
            sabotage(world.rank)
        shown = terminal() if terminal is not None else sys.stdout
        run_rank(resolve(path, processes=world.world_size), world, shown, watch=watch)
    except LauncherError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(error.exit_code)


def kill_self() -> None:
    """End this process as an out-of-memory kill or a lost node does."""
    os.kill(os.getpid(), signal.SIGKILL)


def micro_steps(run_dir: RunDir) -> list[dict[str, Any]]:
    """Return the training records, in the order in which they were written."""
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    return [line for line in lines if "train/loss" in line]
