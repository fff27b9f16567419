"""What a run needs on disk is known from shapes and intervals, and held against what is free."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher.cli import app
from launcher.errors import InputError
from launcher.plan.disk import DISK_KEYS, DiskPlan, disk_rule, plan_disk, readable
from launcher.plan.report import file_warnings, plan_lines
from launcher.recipe.resolve import resolve
from tests.support.bad_input import RECIPE

PROBE = 2 * 8 * 64
ENTRY = 3 * 2 * 200
"""Bytes that a header takes for each tensor of the base model and rank, at most."""


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n' * 240)
    write_model({"layers.0.q_proj.weight": [1000, 500]})


def write_model(shapes: dict[str, list[int]], **config: Any) -> None:
    """Write a model of headers, and a hole where the tensors would be."""
    folder = Path("model")
    folder.mkdir(exist_ok=True)
    config = {"hidden_size": 500, "max_position_embeddings": 256, **config}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded)
    os.truncate(folder / "model.safetensors", 8 + len(encoded) + end)


def plan(*overrides: str) -> DiskPlan:
    run = resolve("recipe.yaml", ["deepspeed=zero2", *overrides])
    found = plan_disk(run.recipe, run.model, run.world_size)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("overrides", "trained", "bytes_each"),
    [
        (("method={type: full}",), 1000 * 500, 12),
        (("method={type: full}", "train.optimizer=adamw_8bit"), 1000 * 500, 6 + 8 / 256),
        ((), 8 * (1000 + 500), 12),
        (("method.dora=true",), 8 * (1000 + 500) + 1000, 12),
        (("model.add_tokens=[a,b]",), 8 * (1000 + 500) + 2 * 500, 12),
    ],
)
def test_a_checkpoint_is_what_is_trained_and_its_moments(
    overrides: tuple[str, ...], trained: int, bytes_each: float
) -> None:
    assert plan(*overrides).checkpoint_bytes == trained * bytes_each + 2 * ENTRY + PROBE


def test_the_answers_that_a_checkpoint_keeps_grow_with_the_vocabulary() -> None:
    before = plan().checkpoint_bytes
    write_model({"layers.0.q_proj.weight": [1000, 500]}, vocab_size=128_000)
    assert plan().checkpoint_bytes - before == 2 * 32 * 128_000 * 4


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        # 216 rows: 9 steps an epoch, saved after 9 and 18, and no more than that is ever there
        ((), 2),
        (("checkpoint.every_steps=2", "evaluate.every_steps=2"), 4),
        (("checkpoint.every_steps=2", "data.validation_fraction=null"), 3),
        (("checkpoint={every_steps: 2, keep_best: false}",), 3),
        (("checkpoint={every_steps: 2, keep_last: 1, keep_best: false}",), 3),
        (("checkpoint={every_steps: 2, keep_last: 5, keep_best: false}",), 6),
        (("checkpoint={every_steps: 9, keep_last: 5}", "evaluate.every_steps=3"), 6),
        (("data.train.0.path=unknown.jsonl",), 4),
    ],
)
def test_the_best_and_the_one_being_written_count_too(
    overrides: tuple[str, ...], count: int
) -> None:
    assert plan(*overrides).num_checkpoints == count


def test_the_export_is_the_adapter_or_the_model_in_the_recipes_precision() -> None:
    assert plan().export_bytes == 8 * 1500 * 2
    assert plan("export.merge=true").export_bytes == 1000 * 500 * 2
    assert plan("method={type: full}", "model.dtype=float32").export_bytes == 1000 * 500 * 4
    assert plan("method={type: freeze, trainable: [x]}").export_bytes == 1000 * 500 * 2


def test_checkpoints_that_are_there_make_room_for_those_that_replace_them(tmp_path: Path) -> None:
    recipe = resolve("recipe.yaml", ["deepspeed=zero2"]).to_yaml()
    folder = tmp_path / "runs" / "demo" / "checkpoints"
    for name, size in (("step-000004/a/b", 700), ("step-000008/c", 30), ("quarantine/d", 5)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    (tmp_path / "runs/demo/resolved.yaml").write_text(recipe)
    found = plan()
    assert found.reused_bytes == 730
    assert found.folder == Path("runs/demo")
    short = DiskPlan(100, 3, 50, found.folder, free_bytes=200, reused_bytes=100)
    assert (short.needed_bytes, short.missing_bytes) == (350, 50)
    assert DiskPlan(100, 3, 50, found.folder, 250, 100).missing_bytes == 0


def too_large() -> None:
    """Describe a model whose checkpoints don't fit here, whatever is free."""
    rows = shutil.disk_usage(".").total // 4 // 500
    write_model({"layers.0.q_proj.weight": [rows, 500]})


FULL = ("deepspeed=zero2", "method={type: full}", "train.learning_rate=1e-5")


def test_a_run_that_cannot_fit_is_refused_with_all_other_problems(tmp_path: Path) -> None:
    too_large()
    rules = ((DISK_KEYS, disk_rule),)
    with pytest.raises(InputError) as caught:
        resolve("recipe.yaml", [*FULL, "data.packing=true"], rules=rules)
    packing, disk = (str(problem) for problem in caught.value.problems)
    assert "packing" in packing
    assert disk.startswith("recipe.yaml:3: run.dir: ")
    assert f"{tmp_path} has " in disk
    assert "and the run needs " in disk
    assert "2 checkpoints of " in disk
    assert "choose another run.dir, or keep less" in disk


def test_launcher_run_refuses_before_anything_is_written(tmp_path: Path) -> None:
    too_large()
    arguments = [part for override in FULL for part in ("--set", override)]
    result = CliRunner().invoke(app, ["run", "recipe.yaml", *arguments])
    assert isinstance(result.exception, InputError), result.output
    assert result.exception.exit_code == 2
    (problem,) = result.exception.problems
    assert problem.key == "run.dir"
    assert not (tmp_path / "runs").exists()


def test_the_check_shows_it_and_only_warns() -> None:
    """It may run on another machine than the one with the disk."""
    run = resolve("recipe.yaml", ["deepspeed=zero2"])
    assert dict(plan_lines(run))["disk"].startswith(
        "2 checkpoints of 147.4 kB and an export of 24.0 kB: 318.8 kB of "
    )
    assert file_warnings(run) == []
    too_large()
    (warning,) = file_warnings(resolve("recipe.yaml", FULL))
    assert warning.key == "run.dir"


def test_a_hub_model_is_not_judged() -> None:
    run = resolve("recipe.yaml", [*FULL, "model.path=org/name"], rules=((DISK_KEYS, disk_rule),))
    assert dict(plan_lines(run))["disk"].startswith("known after prepare; ")


def test_a_finished_run_needs_nothing_more(tmp_path: Path) -> None:
    too_large()
    recipe = resolve("recipe.yaml", FULL).to_yaml()
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text(recipe)
    with pytest.raises(InputError, match="free"):
        resolve("recipe.yaml", FULL, rules=((DISK_KEYS, disk_rule),))
    (folder / "summary.json").write_text("{}")
    resolve("recipe.yaml", FULL, rules=((DISK_KEYS, disk_rule),))


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (95_400_000_000, "95.4 GB"),
     (7e15, "7000.0 TB")],
)  # fmt: skip
def test_bytes_are_readable(num_bytes: float, text: str) -> None:
    assert readable(num_bytes) == text
