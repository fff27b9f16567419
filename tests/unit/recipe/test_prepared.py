"""Prepared data are taken as they lie only where nothing that they came from has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.recipe import prepared
from launcher.recipe.prepared import (
    Summary,
    mark_prepared,
    prepared_before,
    prepared_marker,
    sources_state,
)
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.run_settings import run_folder
from launcher.run_dir import RunDir
from tests.unit.recipe.conftest import Resolve

SUMMARY = Summary({"train": (24, 48)}, ("a note",), ("a warning",))
OVERRIDES = (
    "data.train=[{path: train.jsonl}, {path: 'more-*.jsonl'}]",
    "model.tokenizer=tokenizer",
    "model.chat_template=template.jinja",
)
INPUTS = {"data/train.jsonl": "sha256 1"}


@pytest.fixture(autouse=True)
def _files_written_just_now_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "RACY_SECONDS", -60.0)


CACHE = ".launcher-cache"
TOKENS = f"{CACHE}/stored/build/train/input_ids.bin"


@pytest.fixture
def run(resolved: Resolve, tmp_path: Path) -> ResolvedRun:
    """A run whose data are prepared from files in a folder and a glob, with a tokenizer."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n' * 24)
    (tmp_path / "more-1.jsonl").write_text('{"text": "b"}\n')
    run = resolved(*OVERRIDES)
    prepare(run, tmp_path / CACHE / "stored")
    return run


def prepare(run: ResolvedRun, key: Path) -> None:
    folder = key / "build"
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "input_ids.bin").write_bytes(bytes(8))
    (key / "done.json").write_text("{}")
    mark_prepared(run, folder, sources_state(run), INPUTS, SUMMARY)


def checkpoint(run_dir: RunDir, step: int, inputs: object) -> None:
    folder = run_dir.checkpoint(step)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"inputs": inputs}))


def test_what_is_as_it_was_is_ready(run: ResolvedRun) -> None:
    assert prepared_before(run, run_folder(run)) == SUMMARY


def _rows(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "c"}\n' * 24)


def _rows_with_their_old_time(folder: Path) -> None:
    file = folder / "train.jsonl"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    _rows(folder)
    os.utime(file, ns=times)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rows": _rows,
    "rows with their old time": _rows_with_their_old_time,
    "rows gone": lambda folder: (folder / "train.jsonl").unlink(),
    "one more file of the glob": lambda folder: (folder / "more-2.jsonl").write_text("{}\n"),
    "tokenizer": lambda folder: (folder / "tokenizer/tokenizer.json").write_text('{"a": 1}'),
    "one more file beside it": lambda folder: (folder / "tokenizer/added.json").write_text("{}"),
    "base model": lambda folder: (folder / "model/config.json").touch(),
    "template": lambda folder: (folder / "template.jinja").write_text("{{ message }}"),
    "tokens cut": lambda folder: (folder / TOKENS).write_bytes(b"1"),
    "tokens gone": lambda folder: (folder / CACHE / "stored/done.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str, run: ResolvedRun, resolved: Resolve, tmp_path: Path) -> None:
    assert prepared_before(resolved(*OVERRIDES), run_folder(run)) == SUMMARY
    CHANGES[change](tmp_path)
    assert prepared_before(resolved(*OVERRIDES), run_folder(run)) is None


def test_a_copy_of_the_cache_is_not_ready(
    run: ResolvedRun, resolved: Resolve, tmp_path: Path
) -> None:
    """Its marker names the folder that it was copied from."""
    shutil.copytree(tmp_path / CACHE, tmp_path / "copied")
    other = resolved(*OVERRIDES, "data.cache_dir=copied")
    assert prepared_before(other, run_folder(other)) is None


def test_another_version_is_a_change(run: ResolvedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "PACKAGES", (*prepared.PACKAGES, "pytest"))
    assert prepared_before(run, run_folder(run)) is None


def test_another_recipe_has_a_marker_of_its_own(run: ResolvedRun, resolved: Resolve) -> None:
    other = resolved("data.max_seq_len=64")
    assert prepared_before(other, run_folder(other)) is None
    assert prepared_marker(other) != prepared_marker(run)


def test_recipes_that_differ_in_other_things_share_it(resolved: Resolve, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n' * 24)
    first, other = resolved(), resolved("run.name=other", "train.learning_rate=2e-5")
    prepare(first, tmp_path / CACHE / "stored")
    assert prepared_before(other, run_folder(other)) == SUMMARY


def test_a_file_that_changed_moments_ago_is_not_trusted(
    run: ResolvedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prepared, "RACY_SECONDS", 2.0)
    _rows(tmp_path)
    assert sources_state(run) is None
    prepare(run, tmp_path / CACHE / "stored")
    monkeypatch.setattr(prepared, "RACY_SECONDS", -60.0)
    assert prepared_before(run, run_folder(run)) is None


def test_a_file_that_changes_while_it_is_read_is_not_trusted(
    run: ResolvedRun, tmp_path: Path
) -> None:
    before = sources_state(run)
    _rows(tmp_path)
    mark_prepared(run, tmp_path / CACHE / "stored/build", before, INPUTS, SUMMARY)
    assert prepared_before(run, run_folder(run)) is None


@pytest.mark.parametrize(
    "override",
    ["data.train=[{path: some/hub-name}]", "model.path=some/hub-name", "model.tokenizer=some/name"],
)
def test_a_hub_name_is_always_looked_up(override: str, run: ResolvedRun, resolved: Resolve) -> None:
    assert sources_state(run) is not None
    assert sources_state(resolved(override)) is None


def test_a_model_with_code_is_always_prepared(run: ResolvedRun) -> None:
    model = run.recipe.model.model_copy(update={"trust_remote_code": True})
    assert (
        sources_state(replace(run, recipe=run.recipe.model_copy(update={"model": model}))) is None
    )


@pytest.mark.parametrize(
    ("newest", "is_ready"),
    [(INPUTS, True), ({}, True), ({"data/train.jsonl": "sha256 2"}, False), (None, False)],
)
def test_the_newest_checkpoint_decides(newest: object, is_ready: bool, run: ResolvedRun) -> None:
    run_dir = run_folder(run)
    checkpoint(run_dir, 2, {"data/train.jsonl": "sha256 0"})
    checkpoint(run_dir, 4, newest)
    assert (prepared_before(run, run_dir) == SUMMARY) is is_ready


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cache": "stored"}'])
def test_a_torn_or_old_marker_says_nothing(text: str, run: ResolvedRun) -> None:
    prepared_marker(run).write_text(text)
    assert prepared_before(run, run_folder(run)) is None
