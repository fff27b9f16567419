"""Saves and evaluations at intervals of their own: killed at any point, the run is the same."""

from __future__ import annotations

import errno
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from launcher.files import observed
from tests.support.ranks import RanksFailed
from tests.support.training import base_recipe, events, records, run_folder, train


class Plan(NamedTuple):
    """Two intervals, the steps after which all ranks are killed, and where each start resumes."""

    checkpoint: int
    evaluate: int
    max_steps: int
    killed: tuple[int, ...]
    resumed: tuple[int, ...]
    unsaved_best: int
    """Step whose evaluation is the best so far: rank 0 dies before it writes a byte of its save."""


PLANS = [
    # 17: behind the checkpoint of 15, before the evaluation of 20. 23: behind both.
    Plan(5, 20, 43, (17, 23), (0, 15, 20, 35), unsaved_best=40),
    # The best of step 4 and of step 8 have no checkpoint but their own.
    Plan(6, 4, 18, (5, 9), (0, 4, 8, 12), unsaved_best=16),
]


def recipe_of(folder: Path, model: Path, topics: Path, plan: Plan) -> dict[str, Any]:
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
        train={"max_steps": plan.max_steps, "warmup_steps": 2, "learning_rate": 3.0e-3},
        evaluate={"every_steps": plan.evaluate, "micro_batch_size": 64},
        early_stopping={"patience": 50},
        # Written before the next step begins, so that a kill has one place to resume from.
        checkpoint={"every_steps": plan.checkpoint, "keep_best": True, "asynchronous": False},
    )


def kill_before_save_of(step: int) -> None:
    """Let rank 0 die of SIGKILL where the save of `step` makes its folder."""

    def observe(operation: str, path: Path, num_bytes: int) -> None:
        if operation == "mkdir" and path.name == f"step-{step:06d}":
            os.kill(os.getpid(), signal.SIGKILL)

    observed.observers.append(observe)


def note_operations(path: Path) -> None:
    """Let rank 0 write every operation of its saves into a file."""
    if os.environ["RANK"] == "0":
        file = path.open("w", buffering=1)
        observed.observers.append(
            lambda operation, place, _bytes: file.write(f"{operation} {place.name}\n")
        )


def assert_committed_first(operations: list[str], num_saves: int) -> None:
    """A save's links and removals come after the rename of its manifest, and before the next."""
    begins = [n for n, one in enumerate(operations) if one.startswith("mkdir step-")]
    assert len(begins) == num_saves
    for begin, end in zip(begins, [*begins[1:], None], strict=True):
        save = operations[begin:end]
        commit = save.index("rename manifest.json")
        later = [n for n, one in enumerate(save) if one.startswith(("rename latest", "unlink"))]
        assert later
        assert commit < min(later), save
        assert save.index("rename rank-00000.json") < commit


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.checkpoint}-{plan.evaluate}")
def test_killed_between_saves_and_evaluations(
    plan: Plan, tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    whole = recipe_of(tmp_path / "whole", tiny_bert_dir, small_topics, plan)
    torn = recipe_of(tmp_path / "torn", tiny_bert_dir, small_topics, plan)
    noted = tmp_path / "operations"
    train(whole, tmp_path / "whole", 2, sabotage=partial(note_operations, noted))
    saves = events(run_folder(whole), "checkpoint")
    assert_committed_first(noted.read_text().splitlines(), len(saves))
    for step in plan.killed:
        train(torn, tmp_path / "torn", 2, kill_after=step)
    with pytest.raises(RanksFailed, match="rank 0: exit status -9"):
        train(torn, tmp_path / "torn", 2, sabotage=partial(kill_before_save_of, plan.unsaved_best))
    # It was measured, found the best, and lost: events say so until the next start cuts them off.
    bests = [event["step"] for event in events(run_folder(torn), "evaluation_best")]
    assert bests[-1] == plan.unsaved_best
    train(torn, tmp_path / "torn", 2)

    starts = events(run_folder(torn), "start")
    assert tuple(start["resumed_from"] or 0 for start in starts) == plan.resumed
    for key in ("train/loss", "grad_norm", "learning_rate", "validation/loss"):
        expected = records(run_folder(whole), key)
        assert records(run_folder(torn), key) == expected, key
        last = plan.max_steps
        steps = range(0, last, plan.evaluate) if "validation" in key else range(1, last)
        assert sorted(expected) == [*steps, last]
    saved = saved_steps(whole)
    assert saved[-1] == plan.max_steps
    assert plan.unsaved_best in saved
    assert set(range(plan.checkpoint, plan.max_steps, plan.checkpoint)) < set(saved)
    assert exported(torn) == exported(whole)
    assert kept(torn) == kept(whole)
    summaries = [json.loads(run_folder(recipe).summary.read_text()) for recipe in (torn, whole)]
    for key in ("best", "best_evaluation", "first_evaluation", "last_evaluation", "outcome"):
        assert summaries[0][key] == summaries[1][key], key


def refuse_save_of(step: int) -> None:
    """Let the save of `step` find no room on the disk."""

    def observe(operation: str, path: Path, num_bytes: int) -> None:
        if operation == "mkdir" and path.name == f"step-{step:06d}":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    observed.observers.append(observe)


def test_an_export_of_other_weights_than_the_best_says_so(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    """Nothing is learned, so the first evaluation stays the best; and it can't be saved."""
    recipe = recipe_of(tmp_path / "run", tiny_bert_dir, small_topics, Plan(5, 4, 10, (), (), 4))
    recipe["train"]["learning_rate"] = 1e-30
    train(recipe, tmp_path / "run", 1, sabotage=partial(refuse_save_of, 4))
    run_dir = run_folder(recipe)
    assert json.loads(run_dir.summary.read_text())["best"]["step"] == 4
    assert saved_steps(recipe) == [5, 10]
    (exported,) = events(run_dir, "export")
    assert exported["step"] == 10
    (warning,) = (e["message"] for e in events(run_dir, "warning") if "export" in e["message"])
    assert warning.endswith("weights of step 10: those of the best step, 4, are not kept.")


def saved_steps(recipe: dict[str, Any]) -> list[int]:
    return [event["step"] for event in events(run_folder(recipe), "checkpoint")]


def exported(recipe: dict[str, Any]) -> dict[str, bytes]:
    files = sorted(run_folder(recipe).export.glob("*.safetensors"))
    assert files
    return {path.name: path.read_bytes() for path in files}


def kept(recipe: dict[str, Any]) -> tuple[list[str], str, str]:
    """Return the checkpoints that are left and what the links point to."""
    run_dir = run_folder(recipe)
    folders = sorted(path.name for path in run_dir.checkpoints.glob("step-*"))
    return folders, run_dir.best.readlink().name, run_dir.latest.readlink().name
