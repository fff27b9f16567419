"""wandb of a real run: one curve over restarts, and no harm done when it fails."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.support.training import base_recipe, events, records, run_folder, train
from tests.support.wandb_file import history, run_ids


def _recipe(folder: Path, model: Path, topics: Path, *, wandb: bool) -> dict[str, Any]:
    return base_recipe(
        folder,
        model,
        "sequence-classification",
        topics / "train.jsonl",
        data={
            "train": [{"path": str(topics / "train.jsonl")}],
            "validation": [{"path": str(topics / "validation.jsonl")}],
            "cache_dir": str(folder.parent / "cache"),
        },
        train={"max_steps": 9},
        evaluate={"every_steps": 3, "micro_batch_size": 64},
        checkpoint={"every_steps": 3},
        logging={"wandb": {"project": "tests"}} if wandb else {},
    )


def test_one_run_over_two_restarts(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> None:
    recipe = _recipe(tmp_path / "run", tiny_bert_dir, small_topics, wandb=True)
    train(recipe, tmp_path / "run", 2, kill_after=4)
    train(recipe, tmp_path / "run", 2, kill_after=7)
    train(recipe, tmp_path / "run", 2)
    run_dir = run_folder(recipe)
    files = sorted(run_dir.wandb.rglob("*.wandb"))
    assert len(files) == 3
    assert len(set().union(*(run_ids(path) for path in files))) == 1
    rows = [row for path in files for row in history(path)]
    for key in ("train/loss", "validation/loss"):
        curve = [(row["step"], row[key]) for row in rows if key in row]
        assert dict(curve) == records(run_dir, key)
        assert len(dict(curve)) == len(curve)  # no step twice


def _raise_in_init() -> None:
    import wandb

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no such tracker")

    wandb.init = broken


def _block_in_init() -> None:
    import wandb

    wandb.init = lambda *args, **kwargs: threading.Event().wait()


def test_a_broken_tracker_changes_nothing(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    curves = []
    for name, sabotage in (("none", None), ("raise", _raise_in_init), ("block", _block_in_init)):
        folder = tmp_path / name
        recipe = _recipe(folder, tiny_bert_dir, small_topics, wandb=sabotage is not None)
        train(recipe, folder, 2, sabotage=sabotage)
        run_dir = run_folder(recipe)
        curves.append(records(run_dir, "train/loss"))
        warned = [event for event in events(run_dir, "warning") if "wandb" in event["message"]]
        assert bool(warned) == (sabotage is not None)
    assert len(curves[0]) == 9
    assert curves[0] == curves[1] == curves[2]
