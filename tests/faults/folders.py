"""Faults of what lies in a run folder: F27 old checkpoints that stay, F28 linked ones."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.files import observed
from launcher.run_dir import RunDir, step_of
from tests.faults.attempt import Sabotage, attempt
from tests.faults.places import at_step
from tests.faults.setting import (
    INTERVAL,
    NUM_STEPS,
    SETTINGS,
    Bench,
    Setting,
    assert_same_run,
    resumed_from,
)
from tests.faults.trial import trials_on
from tests.support.training import events, run_folder

OLD = INTERVAL
"""The checkpoint that the third save removes."""
LATER = 2 * INTERVAL + 1
"""A step at which it is committed, and not removed yet."""


def cannot_be_removed(how: Callable[[Path], None]) -> Callable[[Bench, Setting, Path], str]:
    """Return a trial whose oldest checkpoint is put into such a state that it can't be removed."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        if how is immutable:
            need_immutable(folder)
        recipe = bench.recipe(folder, setting)
        run_dir = run_folder(recipe)
        old = run_dir.checkpoint(OLD)
        try:
            done = attempt(recipe, folder, on_rank_0(LATER, lambda: how(old)))
        finally:
            subprocess.run(["chattr", "-R", "-i", str(old)], capture_output=True)
        assert done.statuses == [0, 0], done.text
        saved = [event["step"] for event in events(run_dir, "checkpoint")]
        assert saved == list(range(INTERVAL, NUM_STEPS + 1, INTERVAL))
        _assert_told(run_dir, str(old))
        assert not events(run_dir, "save_failed")
        newest = [step_of(path) for path in run_dir.committed][-2:]
        assert newest == [NUM_STEPS - INTERVAL, NUM_STEPS]
        assert run_dir.latest.resolve() == run_dir.checkpoint(NUM_STEPS).resolve()
        assert run_dir.best.resolve().is_dir()
        assert_same_run(run_dir, bench.uninterrupted(setting))
        return "warned with its path, every later checkpoint kept, bitwise the same"

    return run


def immutable(old: Path) -> None:
    """As a file of another owner, or on a snapshot: even root can't remove it."""
    subprocess.run(["chattr", "+i", *map(str, old.iterdir())], check=True)


def need_immutable(folder: Path) -> None:
    """Skip where no file can be made immutable: not root, or in a container without the right."""
    tried = folder / "tried"
    tried.touch()
    done = subprocess.run(["chattr", "+i", str(tried)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"chattr +i: {done.stderr.strip()}")
    subprocess.run(["chattr", "-i", str(tried)], check=True)


def busy(old: Path) -> None:
    """As on NFS, where a file that somebody has open can't go."""

    def refuse(operation: str, path: Path, _num_bytes: int) -> None:
        if operation == "unlink" and old in path.parents:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    observed.observers.append(refuse)


def with_notes(old: Path) -> None:
    """Somebody's own file beside ours."""
    (old / "notes.txt").write_text("mine")


def not_flushed(bench: Bench, setting: Setting, folder: Path) -> str:
    """The manifest has its name, and the disk refuses to flush the folder's entry."""
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)
    committed = run_dir.checkpoint(OLD) / "manifest.json"

    def sabotage(rank: int) -> None:
        def refuse(operation: str, path: Path, _num_bytes: int) -> None:
            if (operation, path) == ("fsync", committed.parent) and committed.exists():
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        if rank == 0:
            observed.observers.append(refuse)

    done = attempt(recipe, folder, sabotage)
    assert done.statuses == [0, 0], done.text
    saved = [event["step"] for event in events(run_dir, "checkpoint")]
    assert saved == list(range(INTERVAL, NUM_STEPS + 1, INTERVAL))
    told = [event["message"] for event in events(run_dir, "warning")]
    assert any("is saved, but a crash may lose it" in message for message in told), told
    assert not events(run_dir, "save_failed")
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "saved, with a warning that a crash may lose it, bitwise the same"


def linked_while_training(bench: Bench, setting: Setting, folder: Path) -> str:
    """A checkpoint is moved to an archive and linked back; then it is one too many."""
    recipe = bench.recipe(folder, setting)
    run_dir, archive = run_folder(recipe), folder / "archive"
    kept = folder / "kept"

    def move() -> None:
        shutil.copytree(run_dir.checkpoint(OLD), kept)
        _move_and_link(run_dir.checkpoint(OLD), archive)

    done = attempt(recipe, folder, on_rank_0(LATER, move))
    assert done.statuses == [0, 0], done.text
    assert "manifest.json" in _contents(kept)
    assert _contents(archive) == _contents(kept)
    assert not os.path.lexists(run_dir.checkpoint(OLD))
    assert not events(run_dir, "save_failed")
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "only the link was removed, bitwise the same"


def resumed_by_a_link(bench: Bench, setting: Setting, folder: Path) -> str:
    """All checkpoints of a stopped run are links; the run resumes from the newest."""
    recipe = bench.recipe(folder, setting)
    run_dir, archive = run_folder(recipe), folder / "archive"
    killed = attempt(recipe, folder, on_rank_0(LATER, lambda: os._exit(1)))
    assert killed.statuses[0] == 1, killed.text
    archive.mkdir()
    for old in run_dir.committed:
        _move_and_link(old, archive / old.name)
    before = {path.name: _contents(path) for path in archive.iterdir()}
    done = attempt(recipe, folder)
    assert done.statuses == [0, 0], done.text
    assert resumed_from(run_dir) >= OLD
    assert {path.name: _contents(path) for path in archive.iterdir()} == before
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "resumed through the link, the archive untouched, bitwise the same"


def on_rank_0(step: int, act: Callable[[], None]) -> Sabotage:
    def sabotage(rank: int) -> None:
        if rank == 0:
            at_step(step, act)

    return sabotage


def _move_and_link(folder: Path, archive: Path) -> None:
    folder.rename(archive)
    folder.symlink_to(archive)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _assert_told(run_dir: RunDir, path: str) -> None:
    told = [event["message"] for event in events(run_dir, "warning")]
    assert any(path in message and "not removed" in message for message in told), told


TRIALS = [
    *trials_on(
        SETTINGS,
        "F27",
        {
            "immutable": cannot_be_removed(immutable),
            "busy": cannot_be_removed(busy),
            "with notes": cannot_be_removed(with_notes),
            "not flushed": not_flushed,
        },
    ),
    *trials_on(
        SETTINGS,
        "F28",
        {"while training": linked_while_training, "resumed": resumed_by_a_link},
    ),
]
