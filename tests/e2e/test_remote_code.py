"""A model that brings its own code: refused without both words, carried to the export with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.custom_code import with_code
from tests.support.launches import run
from tests.support.training import base_recipe, events, run_folder, write_recipe


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code-was-run"


@pytest.fixture
def recipe(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path, marker: Path) -> dict[str, Any]:
    model = with_code(tiny_bert_dir, tmp_path / "traced", marker)
    return base_recipe(
        tmp_path,
        model,
        "sequence-classification",
        small_topics / "train.jsonl",
        model={"trust_remote_code": True},
        train={"max_steps": 2},
        cluster={"cpu_ranks": 2},
    )


@pytest.mark.parametrize("verb", ["check", "prepare", "run"])
def test_the_recipe_alone_runs_no_code(
    verb: str, tmp_path: Path, recipe: dict[str, Any], marker: Path
) -> None:
    path = write_recipe(tmp_path, recipe)
    refused = run(verb, path)
    assert refused.returncode == 2
    assert "model.trust_remote_code: true, so the code in" in refused.stderr
    assert not marker.exists()


@pytest.mark.parametrize("options", [(), ("--trust-remote-code",)])
def test_a_recipe_that_says_nothing_runs_no_code(
    options: tuple[str, ...], tmp_path: Path, recipe: dict[str, Any], marker: Path
) -> None:
    del recipe["model"]["trust_remote_code"]
    path = write_recipe(tmp_path, recipe)
    refused = run("run", path, *options)
    assert refused.returncode == 2, refused.stderr
    assert ("the recipe says false" if options else "trust_remote_code") in refused.stderr
    assert not marker.exists()


def test_both_words_carry_it_to_an_export_that_transformers_can_read(
    tmp_path: Path, recipe: dict[str, Any], marker: Path
) -> None:
    path = write_recipe(tmp_path, recipe)
    run_dir = run_folder(recipe)
    done = run("run", path, "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert {"configuration", "modeling"} <= set(marker.read_text().split())
    assert events(run_dir, "finish")
    config = json.loads((run_dir.export / "config.json").read_text())
    assert config["architectures"] == ["TracedForSequenceClassification"]
    marker.unlink()

    again = str(tmp_path / "again")
    refused = run("export", str(run_dir.root), "--out", again)
    assert refused.returncode == 2
    assert "add --trust-remote-code" in refused.stderr
    assert not marker.exists()
    options = ("--out", again, "--trust-remote-code")
    exported = run("export", str(run_dir.root), *options)
    assert exported.returncode == 0, exported.stderr

    script = (
        "import sys; from transformers import AutoModelForSequenceClassification as Auto;"
        "model = Auto.from_pretrained(sys.argv[1], trust_remote_code=True);"
        "print(type(model).__name__, model.config.num_labels)"
    )
    for folder in (str(run_dir.export), again):
        read = subprocess.run(
            [sys.executable, "-c", script, folder],
            env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "elsewhere")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert read.stdout.split() == ["TracedForSequenceClassification", "5"]
