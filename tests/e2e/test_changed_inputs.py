"""A run whose recipe, data or base model changed is refused with a diff before any rank starts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.launches import launch
from tests.support.training import base_recipe, events, records, run_folder, train


@pytest.fixture
def recipe(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> dict[str, Any]:
    """A run of 6 steps that was killed behind its checkpoint of step 2."""
    data, model = tmp_path / "train.jsonl", tmp_path / "model"
    shutil.copy(small_topics / "train.jsonl", data)
    shutil.copytree(tiny_bert_dir, model)
    recipe = base_recipe(
        tmp_path,
        model,
        "sequence-classification",
        data,
        train={"max_steps": 6},
        checkpoint={"every_steps": 2, "asynchronous": False},
        cluster={"cpu_ranks": 2},
    )
    train(recipe, tmp_path, 2, kill_after=3)
    assert (run_folder(recipe).checkpoint(2) / "manifest.json").exists()
    return recipe


def test_changes_are_refused_and_go_on_only_as_far_as_allowed(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    run_dir = run_folder(recipe)
    begun = run_dir.resolved.read_text()

    recipe["train"]["learning_rate"] = 5.0e-5
    refused = launch(tmp_path, recipe)
    assert refused.returncode == 2
    assert "train.learning_rate: 5e-05, but the run in" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert run_dir.resolved.read_text() == begun

    recipe["train"]["learning_rate"] = 1.0e-4
    rows = Path(recipe["data"]["train"][0]["path"])
    rows.write_text(rows.read_text().replace('"text": "', '"text": "Well, ', 1))
    weights = tmp_path / "model" / "model.safetensors"
    _change_one_weight(weights)
    refused = launch(tmp_path, recipe)
    assert refused.returncode == 2
    named = [line for line in refused.stderr.splitlines() if "changed from" in line]
    assert len(named) == 2
    assert f"data{os.sep}{rows} changed from sha256 " in named[0]
    assert "model/model.safetensors changed from " in named[1]
    assert run_dir.launches == []  # no rank was started for it

    recipe["train"]["learning_rate"] = 5.0e-5
    allowed = ("data", "model.path", "train.learning_rate")
    options = [part for key in allowed for part in ("--allow-change", key)]
    done = launch(tmp_path, recipe, *options)
    assert done.returncode == 0, done.stderr
    assert "train.learning_rate 0.0001 -> 5e-05 from the next step on" in done.stderr
    assert sorted(records(run_dir, "train/loss")) == [1, 2, 3, 4, 5, 6]
    rates = records(run_dir, "learning_rate")
    assert rates[2] == pytest.approx(1.0e-4 * 5 / 6, rel=0.3)
    assert rates[3] < 5.0e-5 < rates[2]
    told = [event["message"] for event in events(run_dir, "warning")]
    assert any(f"data{os.sep}{rows} changed" in line for line in told)
    assert any("model/model.safetensors changed" in line for line in told)
    assert any("the recipe is not that of the checkpoint" in line for line in told)
    (change,) = [json.loads(line) for line in run_dir.changes.read_text().splitlines()]
    assert (change["key"], change["before"], change["after"]) == (
        "train.learning_rate",
        1.0e-4,
        5.0e-5,
    )


def _change_one_weight(weights: Path) -> None:
    """Change the last byte: blocks are read all over a large file, and always at its end."""
    with weights.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        last = file.read(1)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
