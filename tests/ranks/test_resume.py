"""Killed and resumed equals uninterrupted, bitwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import base_recipe, events, records, run_folder, train

METHODS = {
    "full": {"type": "full"},
    "lora": {"type": "lora", "rank": 4, "alpha": 8, "dropout": 0.1},
}


def _recipe(folder: Path, model: Path, topics: Path, method: str, stage: int) -> dict[str, Any]:
    return base_recipe(
        folder,
        model,
        "sequence-classification",
        topics / "train.jsonl",
        method=METHODS[method],
        data={
            "train": [{"path": str(topics / "train.jsonl")}],
            "validation": [{"path": str(topics / "validation.jsonl")}],
            "cache_dir": str(folder.parent / "cache"),
        },
        train={"max_steps": 7, "warmup_steps": 2, "learning_rate": 1.0e-3},
        evaluate={"every_steps": 2, "micro_batch_size": 64},
        early_stopping={"patience": 50},
        checkpoint={"every_steps": 2},
        deepspeed=f"zero{stage}",
    )


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_resumed_run_is_the_uninterrupted_run(
    method: str, stage: int, tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    """Dropout is on: the kill after step 5 loses the step behind the checkpoint of step 4."""
    whole = _recipe(tmp_path / "whole", tiny_bert_dir, small_topics, method, stage)
    torn = _recipe(tmp_path / "torn", tiny_bert_dir, small_topics, method, stage)
    train(whole, tmp_path / "whole", 2)
    killed = train(torn, tmp_path / "torn", 2, kill_after=5)
    assert killed[0].step == 5
    resumed = train(torn, tmp_path / "torn", 2)
    # The save of step 4 may still have been on its way to the disk: then it is step 2.
    resumed_from = events(run_folder(torn), "start")[1]["resumed_from"]
    assert resumed_from in (2, 4)
    assert len(resumed[0].sample_ids) == 7 - resumed_from

    for key in ("train/loss", "grad_norm", "learning_rate", "validation/loss"):
        assert records(run_folder(torn), key) == records(run_folder(whole), key), key
    assert _weights(torn) == _weights(whole)
    summaries = [json.loads(run_folder(r).summary.read_text()) for r in (torn, whole)]
    for key in ("best", "first_evaluation", "last_evaluation", "step", "outcome"):
        assert summaries[0][key] == summaries[1][key], key
    assert len(events(run_folder(torn), "start")) == 2


def _weights(recipe: dict[str, Any]) -> dict[str, bytes]:
    files = sorted(run_folder(recipe).export.glob("*.safetensors"))
    assert files
    return {path.name: path.read_bytes() for path in files}


def test_patience_and_best_survive(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> None:
    """A rate of almost zero improves nothing by 10: patience must run out on the same step."""
    outcomes = {}
    for name, kill_after in (("whole", None), ("torn", 5)):
        recipe = _recipe(tmp_path / name, tiny_bert_dir, small_topics, "full", 2)
        recipe["early_stopping"] = {"patience": 3, "min_delta": 10.0}
        recipe["train"]["max_steps"] = 20
        if kill_after:
            train(recipe, tmp_path / name, 2, kill_after=kill_after)
        train(recipe, tmp_path / name, 2)
        outcomes[name] = json.loads(run_folder(recipe).summary.read_text())
    assert outcomes["whole"]["outcome"] == outcomes["torn"]["outcome"] == "early_stopped"
    assert outcomes["whole"]["step"] == outcomes["torn"]["step"] == 8
    assert outcomes["whole"]["best"] == outcomes["torn"]["best"]
