"""What the trials run on: two ranks, two ZeRO stages, full and LoRA, and the uninterrupted runs."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run_dir import RunDir
from tests.support.training import base_recipe, events, records, run_folder, train

NUM_STEPS = 8
INTERVAL = 2
METHODS = {
    "full": {"type": "full"},
    "lora": {"type": "lora", "rank": 4, "alpha": 8, "dropout": 0.1},
}
KEYS = ("train/loss", "grad_norm", "learning_rate", "validation/loss", "validation/accuracy")


@dataclass(frozen=True)
class Setting:
    """One of the combinations that every fault is tried on."""

    stage: int
    method: str

    def __str__(self) -> str:
        return f"ZeRO-{self.stage} {self.method}"


SETTINGS = [Setting(stage, method) for stage in (2, 3) for method in METHODS]


@dataclass(frozen=True)
class Bench:
    """Model, data and a folder for all trials."""

    model: Path
    topics: Path
    root: Path

    def recipe(self, folder: Path, setting: Setting, **sections: Any) -> dict[str, Any]:
        """Return the recipe of a short run with dropout, evaluations and checkpoints."""
        recipe = base_recipe(
            folder,
            self.model,
            "sequence-classification",
            self.topics / "train.jsonl",
            method=METHODS[setting.method],
            data={
                "train": [{"path": str(self.topics / "train.jsonl")}],
                "validation": [{"path": str(self.topics / "validation.jsonl")}],
                "cache_dir": str(self.root / "cache"),
            },
            train={
                "max_steps": NUM_STEPS,
                "micro_batch_size": 2,
                "warmup_steps": 2,
                "learning_rate": 1.0e-3,
            },
            evaluate={"every_steps": INTERVAL, "micro_batch_size": 8},
            checkpoint={"every_steps": INTERVAL},
            deepspeed=f"zero{setting.stage}",
            cluster={"cpu_ranks": 2},
        )
        for name, values in sections.items():
            recipe[name] = values if name == "method" else {**recipe.get(name, {}), **values}
        return recipe

    @functools.cache  # noqa: B019 - a bench lives as long as the trials
    def uninterrupted(self, setting: Setting) -> RunDir:
        """Return the folder of the run that nothing happened to; trained once."""
        folder = self.root / f"whole-{setting.stage}-{setting.method}"
        recipe = self.recipe(folder, setting)
        train(recipe, folder, 2)
        return run_folder(recipe)

    def begun(self, folder: Path, setting: Setting) -> None:
        """Copy the checkpoints of the uninterrupted run into `folder`, to start from there."""
        shutil.copytree(self.uninterrupted(setting).root, folder, symlinks=True)


def assert_same_run(run_dir: RunDir, whole: RunDir, *, weights: bool = True) -> None:
    """Every record, the exported bytes and the best are those of the uninterrupted run."""
    for key in KEYS:
        found, expected = records(run_dir, key), records(whole, key)
        assert expected, key
        assert found == expected, f"{key}: {found} instead of {expected}"
    summaries = [json.loads(folder.summary.read_text()) for folder in (run_dir, whole)]
    for key in ("outcome", "step", "best", "last_evaluation"):
        assert summaries[0][key] == summaries[1][key], key
    if weights:
        assert exported(run_dir) == exported(whole)


def exported(run_dir: RunDir) -> dict[str, bytes]:
    """Return the bytes of the exported weights."""
    files = {path.name: path.read_bytes() for path in run_dir.export.glob("*.safetensors")}
    assert files
    return files


def resumed_from(run_dir: RunDir) -> int:
    """Return the step that the last start went on from."""
    step: int = events(run_dir, "start")[-1]["resumed_from"]
    return step
