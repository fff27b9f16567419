"""The plan says what the run will do, from what can be known before it is prepared."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from launcher.data.sampler import held_out
from launcher.errors import InputError
from launcher.plan.report import file_warnings, plan_lines, print_plan
from launcher.plan.rows import training_rows
from launcher.recipe.resolve import resolve
from launcher.recipe.schema import DataSection
from tests.support.bad_input import RECIPE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def lines(*overrides: str) -> dict[str, str]:
    overrides = ("model.path=org/name", "deepspeed=zero2", *overrides)
    return dict(plan_lines(resolve("recipe.yaml", overrides)))


def test_the_plan_of_a_run_whose_data_are_there(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "a"}\n\n' * 1000)
    plan = lines("train.warmup_steps=4", "evaluate.every_steps=10", "early_stopping={}")
    assert plan["batch"] == ("4 micro x 3 accumulation x 2 ranks = 24 sequences per step")
    # 1000 rows less 100 held out; ceil(900 / 24) = 38 steps, twice
    assert plan["steps"] == (
        "76, of which 4 warm up (900 rows, 38 steps per epoch, if prepare drops none)"
    )
    assert plan["learning rate"] == "1e-05, linear to 0"
    assert plan["precision"] == "bfloat16, adamw, gradient norm clipped at 1"
    assert plan["sharding"] == "ZeRO stage 2 (zero2), no offload"
    assert plan["evaluation"] == (
        "at the start, every 10 steps and at the end; "
        "stops after 3 without a better validation/loss"
    )
    assert plan["checkpoints"] == "every epoch; the last 2 and the best kept"
    assert plan["trainable"] == "known after prepare"


def test_what_is_not_known_is_not_guessed(folder: Path) -> None:
    assert lines()["steps"] == "2 epochs; steps known after prepare"
    fixed = lines("train.num_epochs=null", "train.max_steps=100")
    assert fixed["steps"] == "100, of which 3 warm up"


def test_variants_are_spelled_out(folder: Path) -> None:
    plan = lines(
        "deepspeed=zero3_offload", "train.max_grad_norm=0", "data.validation_fraction=null",
        "method={type: qlora, rslora: true, target_modules: [q_proj]}", "train.schedule=wsd",
        "model.gradient_checkpointing=true", "method.type=lora",
    )  # fmt: skip
    assert plan["sharding"] == (
        "ZeRO stage 3 (zero3_offload), offload optimizer to cpu and parameters to cpu"
    )
    assert plan["precision"] == "bfloat16, adamw, no gradient clipping, activations recomputed"
    assert plan["method"] == "lora: rank 8, alpha 32 on q_proj, rslora"
    assert plan["evaluation"] == "none (no validation rows)"
    assert plan["learning rate"] == "1e-05, wsd (last 20 % decay) to 0"
    assert plan["checkpoints"] == "every epoch; the last 2 kept"


def test_warm_up_longer_than_the_rows_allow_is_refused(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "a"}\n' * 24)
    with pytest.raises(InputError, match="warmup_steps 9 is not below the total of 2 steps"):
        lines("train.warmup_steps=9")


@pytest.mark.parametrize("rows", [2, 3, 10, 101])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.99])
def test_rows_are_those_that_the_data_really_keep(rows: int, fraction: float, folder: Path) -> None:
    (folder / "a.jsonl").write_text("{}\n" * rows)
    section = DataSection.model_validate(
        {"train": [{"path": "*.jsonl"}], "validation_fraction": fraction}
    )
    assert training_rows(section) == rows - len(held_out(rows, fraction, seed=0))


def test_rows_of_other_files_are_not_counted(folder: Path) -> None:
    (folder / "a.jsonl").write_text("{}\n")
    (folder / "a.csv").write_text("text\nx\n")
    sources = [{"path": "a.jsonl"}, {"path": "a.csv"}]
    assert training_rows(DataSection.model_validate({"train": sources})) is None
    assert training_rows(DataSection.model_validate({"train": [{"path": "org/data"}]})) is None


def test_printing_shows_every_line_and_every_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)  # others fill the disk meanwhile
    overrides = [
        "model.path=org/name",
        "deepspeed=zero2",
        "method.type=full",
        "train.learning_rate=1",
    ]
    run = resolve("recipe.yaml", overrides)
    stream = io.StringIO()
    print_plan(run, Console(file=stream, width=200))
    printed = stream.getvalue()
    for label, text in plan_lines(run):
        assert f"{label} " in printed
        assert text in printed
    assert (
        "warning: --set train.learning_rate=1: train.learning_rate: learning_rate 1 is" in printed
    )
    assert "warning: recipe.yaml:12: data.train.0.path: train.jsonl is not there (yet)." in printed


def test_each_missing_file_is_told_at_its_own_line(folder: Path) -> None:
    """Every entry of every list, also of those that a base recipe or an override writes."""
    (folder / "there.jsonl").write_text("{}\n")
    (folder / "top.yaml").write_text(
        "extends: recipe.yaml\n"
        "data:\n"
        "  validation_fraction: null\n"
        "  train:\n"
        "    - path: there.jsonl\n"
        "    - path: second.jsonl\n"
        "    - weight: 1.0\n"
        "      path: 'third-*.csv'\n"
        "    - path: org/of-the-hub\n"
        "  validation:\n"
        "    - path: there.jsonl\n"
        "    - {path: other.parquet}\n"
    )
    overrides = ["model.path=org/name", "deepspeed=zero2"]
    assert [str(warning) for warning in file_warnings(resolve("top.yaml", overrides))] == [
        "top.yaml:6: data.train.1.path: second.jsonl is not there (yet).",
        "top.yaml:8: data.train.2.path: third-*.csv is not there (yet).",
        "top.yaml:12: data.validation.1.path: other.parquet is not there (yet).",
    ]
    overrides += ["data.validation=[{path: a.jsonl}]", "data.train.0.path=b.jsonl"]
    written, _, _, by_option = file_warnings(resolve("top.yaml", overrides))
    assert written.place == "--set data.train.0.path=b.jsonl"
    assert by_option.place == "--set data.validation=[{path: a.jsonl}]"
