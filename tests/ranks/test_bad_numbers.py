"""Numbers gone bad are never silent: skipped updates are counted, a bad loss stops all ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.world import World
from tests.support.ranks import RanksFailed
from tests.support.training import base_recipe, events, records, run_folder, train


def _recipe(folder: Path, model: Path, topics: Path, /, **sections: Any) -> dict[str, Any]:
    return base_recipe(folder, model, "sequence-classification", topics / "train.jsonl", **sections)


def _multiply_loss_of_rank_one(factor: float, step: int) -> None:
    from launcher.train import step as step_module

    train_step, current = step_module.seed_step, []

    def remember_step(seed: int, number: int, rank: int) -> None:
        current[:] = [number]
        train_step(seed, number, rank)

    step_module.seed_step = remember_step
    if World.from_environment().rank != 1:
        return
    from launcher.tasks.sequence_classification import SequenceClassification

    forward = SequenceClassification.forward

    def spoiled(self: Any, model: Any, batch: Any) -> Any:
        output = forward(self, model, batch)
        if current == [step] and torch.is_grad_enabled():
            object.__setattr__(output, "loss_sum", output.loss_sum * factor)
        return output

    SequenceClassification.forward = spoiled


def _nan_on_rank_one() -> None:
    _multiply_loss_of_rank_one(math.nan, step=2)


def _infinite_gradient_on_rank_one() -> None:
    """The loss stays finite in float32; its gradient in bfloat16 does not."""
    from launcher.train import loop

    if World.from_environment().rank != 1:
        return
    train_step = loop.train_step

    def with_hook(session: Any, window: Any) -> Any:
        handle = None
        if window.step == 2:
            last = [p for p in session.engine.module.parameters() if p.requires_grad][-1]
            handle = last.register_hook(lambda gradient: gradient * math.inf)
        result = train_step(session, window)
        if handle is not None:
            handle.remove()
        return result

    loop.train_step = with_hook


def test_nan_loss_on_one_rank_stops_all_and_names_step_and_rows(
    tmp_path: Path, minilm_dir: Path, small_topics: Path
) -> None:
    recipe = _recipe(tmp_path, minilm_dir, small_topics)
    with pytest.raises(RanksFailed) as failure:
        train(recipe, tmp_path, 2, sabotage=_nan_on_rank_one)
    assert str(failure.value).count("TrainingError: step 3: the loss is nan") == 2
    assert "Rows of this step: [" in str(failure.value)
    losses = records(run_folder(recipe), "train/loss")
    assert sorted(losses) == [1, 2]  # never recorded as a number


def test_an_update_skipped_by_the_engine_is_said(
    tmp_path: Path, minilm_dir: Path, small_topics: Path
) -> None:
    recipe = _recipe(
        tmp_path, minilm_dir, small_topics, model={"dtype": "bfloat16"}, train={"max_steps": 5}
    )
    try:
        train(recipe, tmp_path, 2, sabotage=_infinite_gradient_on_rank_one)
    except RanksFailed as failure:
        assert "TrainingError: step 3" in str(failure)  # noqa: PT017 - either is not silent
        return
    (warning,) = events(run_folder(recipe), "warning")
    assert (warning["step"], "skipped" in warning["message"]) == (3, True)
    assert records(run_folder(recipe), "skipped_steps")[5] == 1
