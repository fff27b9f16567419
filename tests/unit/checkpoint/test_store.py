"""A checkpoint is what its manifest says, or it is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoint import store
from launcher.checkpoint.manifest import read_manifest
from launcher.errors import NoCheckpointError
from launcher.run_dir import MANIFEST, RunDir, step_of
from tests.support.checkpoints import commit

WEIGHTS = "rank-00000.safetensors"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def save(run_dir: RunDir, step: int, *, best: bool = False, keep_last: int = 2) -> Path:
    folder = store.begin(run_dir, step)
    (folder / WEIGHTS).write_text(f"weights {step}")
    commit(folder, step=step)
    store.point(run_dir.latest, folder)
    if best:
        store.point(run_dir.best, folder)
    store.prune(run_dir, keep_last)
    return folder


def test_newest_is_found_with_its_counters(run_dir: RunDir) -> None:
    save(run_dir, 1)
    folder = save(run_dir, 2)
    assert store.newest_verified(run_dir) == folder
    manifest = read_manifest(folder)
    assert manifest.progress == {"step": 2}
    assert (manifest.world_size, manifest.zero_stage, manifest.step) == (2, 3, 2)
    assert set(manifest.files) == {WEIGHTS}
    assert run_dir.latest.resolve() == folder.resolve()


@pytest.mark.parametrize(
    "damage", ["truncate", "flip", "remove", "manifest", "empty manifest", "flipped manifest"]
)
def test_damage_falls_back_and_says_why(run_dir: RunDir, damage: str) -> None:
    good, bad = save(run_dir, 1), save(run_dir, 2)
    weights, manifest = bad / WEIGHTS, bad / MANIFEST
    data = weights.read_bytes()
    match damage:
        case "truncate":
            weights.write_bytes(data[:-1])
        case "flip":
            weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "remove":
            weights.unlink()
        case "manifest":
            manifest.unlink()
        case "empty manifest":
            manifest.write_text("")
        case "flipped manifest":
            manifest.write_text(manifest.read_text().replace("adamw", "adamv"))
    newest, (passed_over,) = store.find_newest(run_dir)
    assert newest == good
    assert passed_over.folder == bad
    assert ("manifest" if "manifest" in damage else WEIGHTS) in passed_over.reason or (
        "never committed" in passed_over.reason
    )


def test_none_usable_is_an_error_that_names_all(run_dir: RunDir) -> None:
    (save(run_dir, 1) / MANIFEST).unlink()
    with pytest.raises(NoCheckpointError, match="step-000001: was never committed") as caught:
        store.newest_verified(run_dir)
    assert caught.value.exit_code == 3


def test_pruning_keeps_the_newest_two_and_the_best(run_dir: RunDir) -> None:
    for step in range(1, 7):
        save(run_dir, step, best=step == 2, keep_last=1)
    assert [folder.name for folder in run_dir.committed] == [
        "step-000002",
        "step-000005",
        "step-000006",
    ]
    assert store.best_verified(run_dir) == run_dir.checkpoint(2)


def test_a_damaged_best_is_never_replaced_silently(run_dir: RunDir) -> None:
    best = save(run_dir, 1, best=True)
    save(run_dir, 2)
    (best / WEIGHTS).write_bytes(b"")
    with pytest.raises(NoCheckpointError, match="--weights last"):
        store.best_verified(run_dir)


def test_what_was_never_committed_makes_room(run_dir: RunDir) -> None:
    torn = store.begin(run_dir, 1)
    (torn / "rank-00000.safetensors").write_text("x")
    folder = store.begin(run_dir, 1)
    assert not list(folder.iterdir())
    assert [path.name for path in run_dir.checkpoints.iterdir()] == [folder.name]


def test_what_was_committed_and_is_damaged_is_put_aside(run_dir: RunDir) -> None:
    damaged = save(run_dir, 1)
    (damaged / WEIGHTS).write_text("x")
    aside = store.clear_away(run_dir, damaged)
    assert aside is not None
    assert (aside / WEIGHTS).read_text() == "x"
    assert not damaged.exists()


def test_another_format_is_named(run_dir: RunDir) -> None:
    folder = save(run_dir, 1)
    old = {"step": 1, "launcher_version": "0.0.9", "files": {}}
    (folder / MANIFEST).write_text(json.dumps(old))
    _, (passed_over,) = store.find_newest(run_dir)
    assert "format 1 of launcher 0.0.9" in passed_over.reason


def test_order_is_by_number(run_dir: RunDir) -> None:
    for step in (999_998, 999_999, 1_000_000, 10_000_000):
        save(run_dir, step)
    assert [step_of(folder) for folder in run_dir.committed] == [1_000_000, 10_000_000]
    assert store.newest_verified(run_dir) == run_dir.checkpoint(10_000_000)


def test_pruning_does_not_follow_a_link(run_dir: RunDir, tmp_path_factory: Any) -> None:
    archive = tmp_path_factory.mktemp("archive") / "step-000001"
    save(run_dir, 1).rename(archive)
    run_dir.checkpoint(1).symlink_to(archive)
    kept = {path.name: path.read_bytes() for path in archive.iterdir()}
    save(run_dir, 2)
    save(run_dir, 3)
    assert not run_dir.checkpoint(1).is_symlink()
    assert {path.name: path.read_bytes() for path in archive.iterdir()} == kept


def test_what_cannot_be_removed_is_named_and_the_others_go(run_dir: RunDir) -> None:
    """A file that no save made: somebody's notes."""
    (save(run_dir, 1) / "notes.txt").write_text("mine")
    save(run_dir, 2, keep_last=9)
    save(run_dir, 3, keep_last=9)
    save(run_dir, 4, keep_last=9)
    (trouble,) = store.prune(run_dir, 2)
    assert trouble.filename == str(run_dir.checkpoint(1))
    assert trouble.strerror == "1 other files are in it, notes.txt the first"
    assert [step_of(folder) for folder in run_dir.committed] == [3, 4]
    assert (run_dir.checkpoint(1) / "notes.txt").read_text() == "mine"


def test_the_newest_two_that_verify_stay(run_dir: RunDir) -> None:
    folders = [save(run_dir, step, keep_last=9) for step in range(1, 7)]
    for folder in folders[3:5]:
        (folder / WEIGHTS).write_bytes(b"")
    assert store.prune(run_dir, 2) == []
    assert [step_of(folder) for folder in run_dir.committed] == [3, 4, 5, 6]
    # Written by this very process: not read again, and so not known to be damaged.
    assert store.prune(run_dir, 2, known={5, 6}) == []
    assert [step_of(folder) for folder in run_dir.committed] == [5, 6]


def test_the_best_stays_also_where_no_link_says_so(run_dir: RunDir) -> None:
    for step in range(1, 5):
        save(run_dir, step, keep_last=9)
    run_dir.best.symlink_to("/")
    assert store.prune(run_dir, 2, best_step=1) == []
    assert [step_of(folder) for folder in run_dir.committed] == [1, 3, 4]


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "folder with notes"])
def test_what_no_save_has_made_is_put_aside(run_dir: RunDir, tmp_path: Path, kind: str) -> None:
    folder, elsewhere = run_dir.checkpoint(1), tmp_path / "elsewhere"
    run_dir.checkpoints.mkdir()
    match kind:
        case "link":
            elsewhere.mkdir()
            (elsewhere / "rank-00000.safetensors").write_text("x")
            folder.symlink_to(elsewhere)
        case "dangling link":
            folder.symlink_to(elsewhere)
        case "file":
            folder.write_text("x")
        case "folder with notes":
            folder.mkdir()
            (folder / "notes.txt").write_text("x")
    assert store.begin(run_dir, 1) == folder
    assert not list(folder.iterdir())
    (aside,) = (run_dir.checkpoints / "quarantine").iterdir()
    assert aside.name.startswith("step-000001-")
    if kind == "link":
        assert list(elsewhere.iterdir())


def test_a_checkpoint_under_another_name_is_not_taken_for_a_newer_one(run_dir: RunDir) -> None:
    old, new = save(run_dir, 1), save(run_dir, 2)
    old.rename(run_dir.checkpoint(9))
    assert store.newest_verified(run_dir) == new
    _, passed_over = store.find_newest(run_dir)
    assert [bad.reason for bad in passed_over] == ["is the checkpoint of step 1 under another name"]
