"""A rank that is several times slower than the other is named; nothing is killed for it."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from launcher.train.local_work import layers_of
from launcher.train.step_observer import StepObserver
from tests.support.training import events, run_folder, train

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.data.sampler import Window
    from launcher.train.session import Session

SLOW_RANK = 1
LAYER_SECONDS = 0.02
"""14 layers: 0.28 s a forward pass, which is far more than a busy machine adds to one."""


@dataclass(frozen=True)
class SlowLayers(StepObserver):
    """From the first step on, each layer of these ranks takes its time, as on a slow device."""

    ranks: frozenset[int]

    def before_step(self, session: Session, window: Window) -> None:
        if window.step == 0 and session.world.rank in self.ranks:
            for layer in layers_of(session.engine.module):
                layer.forward = partial(slow_forward, layer.forward)


def slow_forward(forward: Callable[..., Any], *inputs: Any) -> Any:
    time.sleep(LAYER_SECONDS)
    return forward(*inputs)


def _check_every_step() -> None:
    straggler: Any = importlib.import_module("launcher.train.straggler")
    straggler.CHECK_SECONDS = 0.0


def _train(
    folder: Path, recipe_of: Callable[..., dict[str, Any]], stage: str, slow: set[int]
) -> list[dict[str, Any]]:
    sizes = {"max_steps": 7, "global_batch_size": 8, "micro_batch_size": 2}
    recipe = recipe_of(train=sizes, deepspeed=stage)
    slow_layers = SlowLayers(frozenset(slow))
    train(recipe, folder, 2, sabotage=_check_every_step, observers=(slow_layers,))
    run_dir = run_folder(recipe)
    assert len(events(run_dir, "finish")) == 1
    return events(run_dir, "warning")


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_a_slow_rank_is_named_once_and_the_run_goes_on(
    stage: str, tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]]
) -> None:
    (warning,) = _train(tmp_path, tiny_recipe, stage, {SLOW_RANK})
    assert (warning["rank"], warning["host"]) == (SLOW_RANK, socket.gethostname())
    assert warning["ratio"] > 2.5
    assert warning["local_seconds"] > 2.5 * warning["median_seconds"]
    assert f"rank 1 on {socket.gethostname()} is slow" in warning["message"]


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_equal_ranks_are_not_warned_of(
    stage: str, tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]]
) -> None:
    assert not _train(tmp_path, tiny_recipe, stage, {0, SLOW_RANK})
