"""Ranks started by hand: the recipe's timeout is that of every group, and the folder is locked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.lock import hold, holder_of
from tests.support.ranks import RanksFailed, run_ranks
from tests.support.training import prepare, run_folder, train, write_recipe


@pytest.fixture
def recipe(tiny_recipe: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return tiny_recipe(
        run={"timeout_seconds": 77.0},
        train={"max_steps": 1},
    )


def _timeouts(path: Path) -> list[float]:
    """Train, and return the timeout of each process group there is then."""
    import torch
    import torch.distributed as dist

    from launcher.recipe.resolve import resolve
    from launcher.train.run import run_rank
    from launcher.world import World

    world = World.from_environment()
    run_rank(resolve(path, processes=world.world_size), world)
    groups = dist.distributed_c10d._world.pg_map
    options = [group._get_backend(torch.device("cpu")).options for group in groups]
    return [float(option._timeout.total_seconds()) for option in options]


def test_every_process_group_has_the_timeout_of_the_recipe(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    """DeepSpeed makes one of its own, for which torch has another default."""
    path = write_recipe(tmp_path, recipe)
    prepare(path)
    for timeouts in run_ranks(2, _timeouts, path):
        assert len(timeouts) >= 2
        assert set(timeouts) == {77.0 + 5.0}


def test_a_folder_that_is_held_is_refused_on_all_ranks(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    run_dir = run_folder(recipe)
    with hold(run_dir.lock, "launcher run"), pytest.raises(RanksFailed) as failed:
        train(recipe, tmp_path, 2)
    assert "is held by `launcher run`" in str(failed.value)
    assert str(failed.value).count("InputError") >= 2
    assert not run_dir.resolved.exists()
    assert holder_of(run_dir.lock) is None
