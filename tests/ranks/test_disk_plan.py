"""The disk that a plan promises is the disk that checkpoints and export take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.plan.disk import plan_disk
from launcher.recipe.resolve import resolve
from tests.support.training import run_folder, train, write_recipe

HEAD_AND_HEADERS = 0.03
"""The head's size and the files' headers are only known roughly beforehand."""


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_checkpoint_takes_what_was_planned(
    optimizer: str, tmp_path: Path, topics_recipe: Callable[..., dict[str, Any]]
) -> None:
    recipe = topics_recipe(
        train={"max_steps": 1, "optimizer": optimizer},
    )
    resolved = resolve(write_recipe(tmp_path, recipe), processes=2)
    plan = plan_disk(resolved.recipe, resolved.model, resolved.world_size)
    assert plan is not None
    train(recipe, tmp_path, 2)
    run_dir = run_folder(recipe)
    saved = bytes_below(run_dir.checkpoint(1))
    assert saved <= plan.checkpoint_bytes <= (1 + HEAD_AND_HEADERS) * saved
    assert plan.num_checkpoints == len(list(run_dir.checkpoints.glob("step-*"))) == 1
    weights = (run_dir.export / "model.safetensors").stat().st_size
    assert weights <= plan.export_bytes <= (1 + HEAD_AND_HEADERS) * weights
    again = plan_disk(resolved.recipe, resolved.model, resolved.world_size)
    assert again is not None
    assert again.reused_bytes == saved


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
