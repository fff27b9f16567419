"""Doctor and preflight look for fetched models where the hub's library keeps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEEN = """\
import json
from launcher.cluster.doctor.software import software
from launcher.cluster.nodes.facts import Inquiry, gather
from launcher.cluster.node.share import Share
from launcher.recipe.resolve import resolve
(cache,) = [one for one in software(has_gpus=False) if one.name == "hub cache"]
def problems(*overrides):
    return gather(Inquiry("0", {}), resolve("recipe.yaml", overrides), Share(1))["problems"]
seen = {"doctor": [cache.verdict, cache.found, cache.cure], "problems": problems()}
seen["other"] = problems("model.path=some/other")
seen["folder"] = problems("model.path=models/mine/7b")
seen["tagged"] = problems("model.revision=v2")
import huggingface_hub.constants
seen["library"] = huggingface_hub.constants.HF_HUB_CACHE
print(json.dumps(seen))
"""
RECIPE = """\
run: {name: demo}
model: {path: some/model, task: causal-lm}
method: {type: full}
data: {train: [{path: train.jsonl}]}
train: {max_steps: 1, global_batch_size: 1, micro_batch_size: 1}
deepspeed: zero2
"""


def seen_with(folder: Path, **variables: str) -> dict[str, object]:
    """Return what a process with these variables finds."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        env={**clean, "HOME": str(folder / "home"), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/huggingface/hub"),
        ({"HF_HOME": "~/hf", "XDG_CACHE_HOME": "{}/xdg"}, "home/hf/hub"),
        ({"HF_HOME": "$SCRATCH/hf", "SCRATCH": "{}/scratch"}, "scratch/hf/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "{}/old", "HF_HOME": "{}/hf"}, "old"),
        ({"HF_HUB_CACHE": "~/$PART", "PART": "new", "HUGGINGFACE_HUB_CACHE": "{}/old"}, "home/new"),
    ],
)
def test_a_fetched_model_is_found_where_the_variables_say(
    variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    cache = tmp_path / expected
    repository = cache / "models--some--model"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    values = {name: value.format(tmp_path) for name, value in variables.items()}
    seen = seen_with(tmp_path, **values)
    assert seen["library"] == str(cache)
    assert seen["doctor"] == ["ok", f"{cache}, online where the network lets it", ""]
    assert seen["problems"] == []
    missing = f"in {cache}: run `launcher prepare` first"
    assert seen["other"] == [f"has no copy of the model some/other {missing}"]
    assert seen["folder"] == [f"has no copy of the model models/mine/7b {missing}"]
    assert seen["tagged"] == [f"has no copy of the model some/model (v2) {missing}"]


def test_a_cache_that_nobody_can_write_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    seen = seen_with(tmp_path, HF_HUB_CACHE="/proc/here", HF_HUB_OFFLINE="1")
    verdict, found, cure = seen["doctor"]  # type: ignore[misc]
    assert (verdict, found) == ("warning", "/proc/here is not writable, offline (HF_HUB_OFFLINE)")
    assert cure
