"""Validation: one number for any batch size and any number of ranks; stopping that can't hang."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.tasks.registry import task_for
from launcher.world import World
from tests.support.training import base_recipe, events, records, run_folder, train


def _recipe(folder: Path, model: Path, topics: Path, **sections: Any) -> dict[str, Any]:
    data = {
        "train": [{"path": str(topics / "train.jsonl")}],
        "validation": [{"path": str(topics / "validation.jsonl")}],
        "cache_dir": str(folder.parent / "cache"),
    }
    return base_recipe(
        folder, model, "sequence-classification", topics / "train.jsonl", data=data, **sections
    )


def test_same_number_for_any_geometry(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    """37 rows: no batch size and no number of ranks divides them."""
    found = {}
    for world_size in (1, 2):
        for micro_batch_size in (1, 3, 16):
            folder = tmp_path / f"{world_size}x{micro_batch_size}"
            recipe = _recipe(
                folder,
                tiny_bert_dir,
                small_topics,
                train={"max_steps": 1},
                evaluate={"micro_batch_size": micro_batch_size},
            )
            train(recipe, folder, world_size)
            run_dir = run_folder(recipe)
            assert records(run_dir, "validation/tokens")[0] == 37
            found[world_size, micro_batch_size] = (
                records(run_dir, "validation/loss")[0],
                records(run_dir, "validation/accuracy")[0],
            )
    reference = found[1, 1]
    for geometry, numbers in found.items():
        assert numbers == pytest.approx(reference, rel=1e-6), geometry


def _overfitting_recipe(folder: Path, model: Path, topics: Path) -> dict[str, Any]:
    """Sixteen rows learned by heart at a high rate, measured on rows with other labels."""
    rows = [json.loads(line) for line in (topics / "train.jsonl").read_text().splitlines()]
    few = folder / "few.jsonl"
    few.parent.mkdir(parents=True)
    few.write_text("".join(json.dumps(row) + "\n" for row in rows[::6][:16]))
    recipe = _recipe(
        folder,
        model,
        topics,
        train={"max_steps": 200, "learning_rate": 5.0e-4, "schedule": "constant"},
        evaluate={"every_steps": 2, "micro_batch_size": 32},
        early_stopping={"patience": 3},
    )
    recipe["data"]["train"] = [{"path": str(few)}]
    return recipe


def test_overfitting_stops_by_itself_and_exports_the_best(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    recipe = _overfitting_recipe(tmp_path / "run", tiny_bert_dir, small_topics)
    train(recipe, tmp_path / "run", 2)
    run_dir = run_folder(recipe)
    summary = json.loads(run_dir.summary.read_text())
    losses = records(run_dir, "validation/loss")
    del losses[0]  # the untrained model
    best = min(losses, key=losses.__getitem__)
    assert summary["outcome"] == "early_stopped"
    assert summary["step"] == best + 6 < 200
    assert summary["best"]["step"] == best
    assert summary["overfitting_since"] == best
    (stopped,) = events(run_dir, "early_stop")
    assert (stopped["best_step"], stopped["evaluations_without_improvement"]) == (best, 3)
    (event,) = events(run_dir, "overfitting")
    assert event["since_step"] == best
    assert run_dir.best.readlink().name == f"step-{best:06d}"
    (export,) = events(run_dir, "export")
    assert export["step"] == best
    assert "verfit" in run_dir.report.read_text()


def _other_numbers_on_rank_one() -> None:
    """Rank 1 sees validation improve for ever, rank 0 sees what is there."""
    if World.from_environment().rank == 1:
        task: Any = task_for("sequence-classification")
        summarise, calls = task.summarise, []

        def ever_better(statistics: Any) -> dict[str, float]:
            calls.append(1)
            return {**summarise(statistics), "loss": 1.0 / len(calls)}

        task.summarise = ever_better


def test_ranks_with_different_metrics_stop_together(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    recipe = _overfitting_recipe(tmp_path / "run", tiny_bert_dir, small_topics)
    reports = train(recipe, tmp_path / "run", 2, sabotage=_other_numbers_on_rank_one)
    summary = json.loads(run_folder(recipe).summary.read_text())
    assert summary["outcome"] == "early_stopped"
    assert {report.step for report in reports} == {summary["step"]}
