"""A run and a job read copies of the files that their recipe names, whatever becomes of those."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster.slurm.job_folder import make_job_folder
from launcher.errors import InputError
from launcher.recipe.consent import Consent
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.recipe.run_settings import run_folder, write_settings
from launcher.run_dir import RunDir
from tests.unit.recipe.conftest import Resolve

ZERO2 = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}}
ZERO3 = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}
TEMPLATE = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
USERS_FILES = ("top.yaml", "recipe.yaml", "ds.json", "mine.jinja")


@pytest.fixture
def begun(resolved: Resolve) -> ResolvedRun:
    """A run whose recipe extends another and names a DeepSpeed config and a chat template."""
    resolved(deepspeed=ZERO2)  # writes ds.json
    Path("mine.jinja").write_text(TEMPLATE)
    Path("top.yaml").write_text("extends: recipe.yaml\nmodel: {chat_template: mine.jinja}\n")
    run = resolve("top.yaml")
    write_settings(run, run_folder(run))
    make_job_folder(run_folder(run).job(1), run)
    return run


def delete() -> None:
    for name in USERS_FILES:
        Path(name).unlink()


def edit() -> None:
    Path("recipe.yaml").write_text(Path("recipe.yaml").read_text().replace("1e-5", "3e-5"))
    Path("ds.json").write_text(json.dumps(ZERO3))
    Path("mine.jinja").write_text("{{ messages[0].content }}")


def of_the_run(run_dir: RunDir) -> Path:
    return run_dir.resolved


def of_the_job(run_dir: RunDir) -> Path:
    return run_dir.job(1).recipe


@pytest.mark.parametrize("kept", [of_the_run, of_the_job])
@pytest.mark.parametrize("change", [edit, delete])
def test_the_users_files_play_no_part_any_more(
    change: Callable[[], None], kept: Callable[[RunDir], Path], begun: ResolvedRun
) -> None:
    change()
    again = resolve(kept(run_folder(begun)))
    assert again.zero_stage == 2
    assert again.deepspeed == begun.deepspeed
    assert again.recipe == begun.recipe
    template = again.recipe_of_data.model.chat_template
    assert template is not None
    assert Path(template).read_text() == TEMPLATE
    assert again.digest == begun.digest  # the copies are no change to the recipe


@pytest.mark.parametrize("kept", [of_the_run, of_the_job])
@pytest.mark.parametrize("change", [edit, delete])
def test_nor_in_a_run_of_another_name(
    change: Callable[[], None], kept: Callable[[RunDir], Path], begun: ResolvedRun
) -> None:
    """As of `--fresh`, which begins `demo-2` with the recipe that `demo` keeps."""
    change()
    other = resolve(kept(run_folder(begun)), ["run.name=demo-2"], fresh=True)
    assert other.zero_stage == 2
    write_settings(other, run_folder(other))
    again = resolve(run_folder(other).resolved)
    assert again.deepspeed == begun.deepspeed
    assert {file.data for file in again.files.values()} == {
        file.data for file in begun.files.values()
    }


def test_a_users_own_recipe_beside_such_a_copy_is_no_kept_one(resolved: Resolve) -> None:
    """The names of copies are ordinary ones."""
    resolved(deepspeed=ZERO2)  # writes recipe.yaml and ds.json
    Path("deepspeed.json").write_text(json.dumps(ZERO3))
    assert resolve("recipe.yaml").zero_stage == 2
    Path("recipe.yaml").rename("resolved.yaml")
    Path("deepspeed.json").unlink()
    assert resolve("resolved.yaml").zero_stage == 2


def test_the_same_command_takes_the_edited_files_and_their_copies_follow(
    begun: ResolvedRun,
) -> None:
    run_dir = run_folder(begun)
    Path("ds.json").write_text(json.dumps(ZERO3))
    run = resolve("top.yaml")
    assert run.zero_stage == 3
    write_settings(run, run_dir)
    assert resolve(run_dir.resolved).zero_stage == 3
    assert resolve(run_dir.job(1).recipe).zero_stage == 2  # what was submitted stays


def test_an_override_names_another_file(begun: ResolvedRun) -> None:
    run_dir = run_folder(begun)
    run = resolve(run_dir.resolved, ["deepspeed=zero3"])
    assert run.zero_stage == 3
    write_settings(run, run_dir)
    assert resolve(run_dir.resolved).deepspeed == run.deepspeed


@pytest.mark.parametrize("module", ["run_settings", "named_files"])
def test_a_kill_between_recipe_and_copies_leaves_no_old_copy(
    module: str, begun: ResolvedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the write of the resolved recipe nor that of the copies comes about."""
    run_dir = run_folder(begun)
    run = resolve(run_dir.resolved, ["deepspeed=zero3"])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"launcher.recipe.{module}.replace_durably", killed)
        with pytest.raises(KeyboardInterrupt):
            write_settings(run, run_dir)
    with pytest.raises(InputError, match="the run's copy of the file can't be read"):
        resolve(run_dir.resolved)
    write_settings(run, run_dir)
    assert resolve(run_dir.resolved).zero_stage == 3


def test_a_lost_copy_is_said(begun: ResolvedRun) -> None:
    run_dir = run_folder(begun)
    for name in ("deepspeed.json", "chat_template.jinja"):
        (run_dir.root / name).unlink()
    with pytest.raises(InputError) as caught:
        resolve(run_dir.resolved)
    assert [str(problem) for problem in caught.value.problems] == [
        f"{run_dir.root / name}: {key}: the run's copy of the file can't be read: No such file or"
        f" directory. Start from your own recipe, or set the key: --set {key}=FILE."
        for key, name in (
            ("deepspeed", "deepspeed.json"),
            ("model.chat_template", "chat_template.jinja"),
        )
    ]


def test_a_copy_that_no_key_needs_is_removed(begun: ResolvedRun, resolved: Resolve) -> None:
    run_dir = run_folder(begun)
    assert (run_dir.root / "chat_template.jinja").exists()
    allowed = Consent(allow_change=("model.chat_template",))
    write_settings(resolved(consent=allowed), run_dir)
    assert not (run_dir.root / "chat_template.jinja").exists()
