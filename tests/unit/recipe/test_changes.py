"""A run that was begun goes on as it was: what may differ, what has to be allowed, what never."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import InputError
from launcher.recipe import folder_access, run_settings
from launcher.recipe.changes import CARRIERS, FIXED, changes_between
from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.recipe.rules_text import METHODS, section_of
from launcher.recipe.run_settings import run_folder, write_settings
from launcher.run_dir import RunDir
from tests.unit.recipe.conftest import Resolve


def allow(*keys: str) -> Consent:
    return Consent(allow_change=keys)


@pytest.fixture
def begun(resolved: Resolve) -> RunDir:
    """The folder of a run that was begun with the recipe as it is."""
    run = resolved()
    write_settings(run, run_folder(run))
    return run_folder(run)


def keys_refused(resolved: Resolve, *overrides: str, consent: Consent = NO_CONSENT) -> list[str]:
    with pytest.raises(InputError) as caught:
        resolved(*overrides, consent=consent)
    return [problem.key for problem in caught.value.problems]


def test_what_carries_a_run_may_differ(resolved: Resolve, begun: RunDir) -> None:
    other = resolved(
        "run.max_hours=2", "run.max_restarts=0", "run.timeout_seconds=60",
        "run.grace_seconds=30",
        "model.gradient_checkpointing=true", "data.cache_dir=elsewhere",
        "train.micro_batch_size=2", "evaluate.micro_batch_size=8",
        "checkpoint.keep_last=3", "checkpoint.if_save_fails=stop", "checkpoint.asynchronous=false",
        "logging.every_steps=3", "cluster.cpu_ranks=3",
        deepspeed="zero3",
    )  # fmt: skip
    assert (other.world_size, other.zero_stage, other.changes) == (3, 3, ())


def test_everything_else_is_refused_key_by_key_with_both_values(
    resolved: Resolve, begun: RunDir
) -> None:
    with pytest.raises(InputError) as caught:
        resolved("train.num_epochs=5", "data.train.0.path=other.jsonl", "train.eps=1e-6")
    assert [str(problem).partition(" Restore")[0] for problem in caught.value.problems] == [
        (
            "--set data.train.0.path=other.jsonl: data.train.0.path: "
            '"other.jsonl", but the run in runs/demo has "train.jsonl".'
        ),
        "--set train.num_epochs=5: train.num_epochs: 5.0, but the run in runs/demo has 2.0.",
        "--set train.eps=1e-6: train.eps: 1e-06, but the run in runs/demo has 1e-08.",
    ]
    assert "--allow-change train.eps" in str(caught.value)
    assert json.loads(begun.ds_config.read_text())  # nothing was touched


def test_a_key_allows_itself_and_what_is_below(resolved: Resolve, begun: RunDir) -> None:
    changed = ("train.num_epochs=5", "train.eps=1e-6")
    for consent in (allow("train"), allow("train.num_epochs", "train.eps")):
        run = resolved(*changed, consent=consent)
        assert [change.key for change in run.changes] == ["train.num_epochs", "train.eps"]
        told = [str(warning) for warning in run.warnings]
        assert any("train.num_epochs 2.0 -> 5.0 from the next step on" in line for line in told)
    assert keys_refused(resolved, *changed, consent=allow("train.eps")) == ["train.num_epochs"]
    assert keys_refused(resolved, *changed, consent=allow("train.e")) == [
        "train.num_epochs",
        "train.eps",
        "train.e",
    ]


def test_an_allowed_change_is_the_run_from_then_on(resolved: Resolve, begun: RunDir) -> None:
    run = resolved("train.num_epochs=5", consent=allow("train.num_epochs"))
    write_settings(run, begun)
    assert resolved("train.num_epochs=5").changes == ()
    assert keys_refused(resolved) == ["train.num_epochs"]
    (kept,) = [json.loads(line) for line in begun.changes.read_text().splitlines()]
    assert {key: kept[key] for key in ("key", "before", "after")} == {
        "key": "train.num_epochs",
        "before": 2.0,
        "after": 5.0,
    }
    # The ranks get the folder's own recipe and the options of the command.
    again = resolve(begun.resolved, consent=allow("train.num_epochs", "data"))
    assert (again.recipe, again.changes) == (run.recipe, ())
    assert again.allowed_changes == ("train.num_epochs", "data")


def test_files_may_be_allowed_to_differ_under_the_same_recipe(
    resolved: Resolve, begun: RunDir
) -> None:
    assert resolved(consent=allow("data", "model.path")).allowed_changes == ("data", "model.path")
    assert keys_refused(resolved, consent=allow("train.eps")) == ["train.eps"]


FIXED_CASES = {
    "run.seed": "run.seed=3",
    "model.task": "model.task=sequence-classification",
    "model.labels": "model.labels=[a,b]",
    "model.add_tokens": "model.add_tokens=[x]",
    "method.type": "method={type: full}",
    "method.rank": "method.rank=4",
    "method.target_modules": "method.target_modules=[q_proj]",
    "method.modules_to_save": "method.modules_to_save=[lm_head]",
    "method.dora": "method.dora=true",
    "data.validation_fraction": "data.validation_fraction=0.2",
    "train.global_batch_size": "train.global_batch_size=48",
    "train.optimizer": "train.optimizer=adamw_8bit",
    "early_stopping.monitor": "early_stopping={monitor: validation/accuracy, patience: 2}",
}


@pytest.mark.parametrize("key", FIXED_CASES)
def test_what_changes_tensors_or_counters_is_refused_though_allowed(
    key: str, resolved: Resolve, begun: RunDir
) -> None:
    section = key.partition(".")[0]
    with pytest.raises(InputError) as caught:
        resolved(FIXED_CASES[key], consent=allow(section))
    assert [problem.key for problem in caught.value.problems] == [key]
    assert f"and can't change: {FIXED[key]}" in str(caught.value)


def test_every_fixed_key_is_tried_and_every_named_key_exists() -> None:
    assert {*FIXED_CASES, "method.trainable"} == {*FIXED}
    named = [*FIXED, *(f"{name}.{key}" for name, keys in CARRIERS.items() if keys is not True
                       for key in keys)]  # fmt: skip
    for key in named:
        *above, last = key.split(".")
        sections = [*METHODS.values()] if above == ["method"] else [section_of(tuple(above))]
        assert any(section is not None and last in section.model_fields for section in sections)


def test_early_stopping_may_come_later_as_long_as_the_metric_stays(
    resolved: Resolve, begun: RunDir
) -> None:
    run = resolved("early_stopping.patience=2", consent=allow("early_stopping"))
    assert "early_stopping.patience" in [change.key for change in run.changes]


@pytest.mark.parametrize("folder_is_gone", [False, True])
def test_another_base_model_needs_the_same_shapes(
    folder_is_gone: bool, resolved: Resolve, begun: RunDir, tmp_path: Path
) -> None:
    def model(name: str, **config: Any) -> str:
        (tmp_path / name).mkdir()
        config = {"hidden_size": 2048, "max_position_embeddings": 256} | config
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return f"model.path={name}"

    same, wider = model("same", rope_theta=5), model("wider", hidden_size=4096)
    if folder_is_gone:
        begun.model.mkdir()
        (tmp_path / "model" / "config.json").rename(begun.model / "config.json")
    assert resolved(same, consent=allow("model.path")).changes[0].after == "same"
    with pytest.raises(InputError, match=r"can't change: its hidden_size is 4096 and was 2048"):
        resolved(wider, consent=allow("model"))


def test_a_finished_run_is_not_changed(resolved: Resolve, begun: RunDir) -> None:
    begun.summary.write_text("{}")
    with pytest.raises(InputError, match="that run is finished") as caught:
        resolved("train.num_epochs=5", consent=allow("train"))
    assert "--allow-change" not in str(caught.value)


def test_a_new_run_has_nothing_to_change(resolved: Resolve, tmp_path: Path, begun: RunDir) -> None:
    with pytest.raises(InputError, match="no run yet"):
        resolve("recipe.yaml", ["deepspeed=zero2"], fresh=True, consent=allow("train"))
    assert resolve("recipe.yaml", ["run.seed=3", "deepspeed=zero2"], fresh=True).changes == ()


def test_a_key_that_is_wrong_in_itself_is_not_called_a_difference_too(
    resolved: Resolve, begun: RunDir
) -> None:
    assert keys_refused(resolved, "train.eps=x") == ["train.eps"]


def test_the_recipe_in_the_run_folder_can_be_launched_with_overrides(
    resolved: Resolve, begun: RunDir
) -> None:
    """What carries a run may be overridden there too, and the ranks read it from that file."""
    run = resolve(begun.resolved, ["cluster.cpu_ranks=3"])
    write_settings(run, begun)
    assert resolve(begun.resolved).world_size == 3
    kept = begun.resolved.read_text()
    write_settings(resolve(begun.resolved), begun)
    assert begun.resolved.read_text() == kept
    write_settings(resolve(begun.recipe, ["deepspeed=zero2"]), begun)
    assert "deepspeed: ds.json" in begun.recipe.read_text()


def test_a_kill_while_the_recipe_is_written_leaves_the_old_one(
    resolved: Resolve, begun: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = begun.resolved.read_text()
    run = resolved("train.eps=1e-6", consent=allow("train.eps"))
    with monkeypatch.context() as patched:
        patched.setattr(run_settings.os, "fsync", _full_disk)
        with pytest.raises(OSError, match="no space"):
            write_settings(run, begun)
    assert begun.resolved.read_text() == before


def _full_disk(descriptor: int) -> None:
    raise OSError(28, "no space left on device")


def test_a_folder_that_this_version_cannot_read(resolved: Resolve, begun: RunDir) -> None:
    begun.resolved.write_text("torn: {")
    with pytest.raises(InputError, match="not a recipe that this version can read"):
        resolved()


IS_ROOT = os.geteuid() == 0
"""Only root can give a file away; others become another user, to whom all of them are foreign."""


@pytest.mark.parametrize(
    "which", ["root", "checkpoints", "checkpoint", "manifest"] if IS_ROOT else ["root"]
)
def test_what_another_user_wrote_needs_trust(
    which: str, resolved: Resolve, begun: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun.checkpoint(4)
    folder.mkdir()
    manifest = folder / "manifest.json"
    manifest.write_text("{}")
    paths = {
        "root": begun.root,
        "checkpoints": begun.checkpoints,
        "checkpoint": folder,
        "manifest": manifest,
    }
    assert resolved().changes == ()
    owner = 12345 if IS_ROOT else os.geteuid()
    if IS_ROOT:
        os.chown(paths[which], owner, -1)
    else:
        monkeypatch.setattr(folder_access.os, "geteuid", lambda: owner + 1)
    with pytest.raises(InputError) as caught:
        resolved()
    (problem,) = caught.value.problems
    assert problem.message.startswith(f"{paths[which]} belongs to ")
    assert f"uid {owner}" in problem.message.partition(", and you are ")[0]
    assert "--trust-checkpoint" in problem.cure
    run: ResolvedRun = resolved(consent=Consent(trust_checkpoint=True))
    write_settings(run, begun)
    assert run.consent.options() == ["--trust-checkpoint"]


def test_two_recipes_that_are_equal_have_no_changes(resolved: Resolve) -> None:
    assert changes_between(resolved().recipe, resolved("run.dir=x").recipe) == []
