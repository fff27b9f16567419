"""A resolved run is complete, can be written and read again, and knows its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from launcher.errors import InputError
from launcher.recipe.defaults import LEARNING_RATES
from launcher.recipe.dump import to_yaml
from launcher.recipe.read_yaml import parse_yaml
from launcher.recipe.resolve import resolve
from launcher.recipe.run_settings import run_folder, write_settings
from tests.unit.recipe.conftest import Resolve


def test_the_resolved_recipe_is_the_same_recipe(resolved: Resolve, tmp_path: Path) -> None:
    run = resolved("logging.wandb.project=p", "early_stopping.patience=2", "run.seed=7")
    (tmp_path / "again.yaml").write_text(run.to_yaml())
    again = resolve("again.yaml")
    assert again.recipe == run.recipe
    assert again.deepspeed == run.deepspeed
    assert again.digest == run.digest


@pytest.mark.parametrize(
    "text",
    ["no", "null", "1e-5", "08", "12:30", "a: b", "# x", "- x", "", " x ", "é ∑ 🙂", "a\nb\tc",
     "'\"\\", "@x", "~", "true", "{a}", "0x1", "%a", "\x7f", "\x85\u2028"],
)  # fmt: skip
def test_odd_text_survives_writing(text: str, resolved: Resolve) -> None:
    recipe = resolved().recipe
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": text})})
    written = to_yaml(recipe, {})
    assert parse_yaml(written, "f").plain()["model"]["path"] == text
    assert YAML(typ="safe", pure=True).load(written)["model"]["path"] == text


def test_written_values_carry_their_origin(resolved: Resolve) -> None:
    lines = resolved("run.seed=7").to_yaml().splitlines()
    assert "  seed: 7  # --set run.seed=7" in lines
    assert "  name: demo  # recipe.yaml:2" in lines
    assert "  weight_decay: 0.01  # default" in lines


@pytest.mark.parametrize("method", ["full", "freeze", "lora", "qlora"])
def test_the_rate_is_the_methods_unless_given(method: str, resolved: Resolve) -> None:
    run = resolved(f"method={{type: {method}}}", "train.learning_rate=null")
    assert run.recipe.train.learning_rate == LEARNING_RATES[method]
    assert run.recipe.train.warmup_ratio == 0.03
    assert run.recipe.evaluate.micro_batch_size == 4
    given = resolved(f"method={{type: {method}}}", "train.warmup_steps=0")
    assert given.recipe.train.learning_rate == 1e-5
    assert given.recipe.train.warmup_ratio is None


def test_full_fine_tuning_far_above_the_usual_rate_is_warned_of(resolved: Resolve) -> None:
    assert resolved("method.type=full", "train.learning_rate=1e-4").warnings == ()
    (warning,) = resolved("method.type=full", "train.learning_rate=2e-4").warnings
    assert "catastrophic forgetting" in str(warning)
    assert warning.place == "--set train.learning_rate=2e-4"
    assert resolved("train.learning_rate=2e-4").warnings == ()


def test_ranks_come_from_the_command_else_gpus_else_cpus(resolved: Resolve) -> None:
    assert resolved().world_size == 2
    assert resolved("cluster.gpus_per_node=3", "cluster.num_nodes=2").world_size == 6
    assert resolved("cluster.gpus_per_node=4", processes=3).world_size == 3


def test_the_digest_is_of_the_run_and_not_of_its_carrier(resolved: Resolve) -> None:
    base = resolved().digest
    same = (
        "run.dir=elsewhere", "run.max_hours=1", "run.max_restarts=0", "run.timeout_seconds=60",
        "cluster.gpus_per_node=1", "logging.every_steps=5", "deepspeed=zero3",
        "train.micro_batch_size=2", "evaluate.micro_batch_size=1", "checkpoint.keep_last=5",
        "checkpoint.if_save_fails=stop", "checkpoint.asynchronous=false", "data.cache_dir=other",
        "model.gradient_checkpointing=true",
    )  # fmt: skip
    assert all(resolved(override).digest == base for override in same)
    other = ("run.name=x", "run.seed=1", "train.learning_rate=2e-5", "data.shuffle=false")
    assert len({base, *(resolved(override).digest for override in other)}) == 5


def test_an_empty_folder_is_a_new_run(resolved: Resolve, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    assert resolved().recipe.run.name == "demo"
    # and so is one whose launch was killed before it had written the recipe
    (folder / "lock.json").touch()
    (folder / ".resolved.yaml.4711").touch()
    assert resolved().recipe.run.name == "demo"
    (folder / "notes").touch()
    with pytest.raises(InputError, match="is not empty and is not a run"):
        resolved()


def test_rules_that_read_a_broken_value_are_silent_and_others_speak(resolved: Resolve) -> None:
    with pytest.raises(InputError) as caught:
        resolved("train.micro_batch_size=x", "train.max_steps=5", "data.packing=true")
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["train.micro_batch_size", "train.max_steps", "data.packing"]


def test_nothing_is_guessed_of_a_recipe_with_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("{}")
    with pytest.raises(InputError) as caught:
        resolve(tmp_path / "r.yaml")
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["run", "model", "method", "data", "train", "deepspeed"]


def test_positions_of_models_that_pad_them(resolved: Resolve, tmp_path: Path) -> None:
    config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert resolved("data.max_seq_len=512").recipe.data.max_seq_len == 512
    with pytest.raises(InputError, match=r"max_seq_len 513 is more than the model's .* 512"):
        resolved("data.max_seq_len=513")


def test_the_folder_of_a_run_is_recognised_from_its_first_file_on(resolved: Resolve) -> None:
    run = resolved()
    folder = run_folder(run)
    write_settings(run, folder)
    assert resolved().digest == run.digest
    assert json.loads(folder.ds_config.read_text()) == run.deepspeed
    assert folder.root.stat().st_mode & 0o777 == 0o700
    assert folder.recipe.read_text() == Path("recipe.yaml").read_text()
