"""The checkpoints of a run on disk: begun, committed, found again, pruned.

Nothing here talks to other ranks; `train/saver.py` and `train/resume.py` do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from launcher.checkpoint.manifest import is_ours, why_unusable
from launcher.errors import NoCheckpointError
from launcher.files.remove import remove, remove_empty, require_within
from launcher.files.write import ensure_folder, link, make_folder, rename
from launcher.run_dir import MANIFEST, RunDir, step_of


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint folder that can't be used, where it was put and why."""

    folder: Path
    reason: str


def begin(run_dir: RunDir, step: int) -> Path:
    """Make the empty folder of the checkpoint of `step`; whatever has its name makes room."""
    folder = run_dir.checkpoint(step)
    if os.path.lexists(folder):
        clear_away(run_dir, folder)
    make_folder(folder)
    return folder


def find_newest(run_dir: RunDir) -> tuple[Path | None, list[PassedOver]]:
    """Return the newest checkpoint that verifies and the newer folders that were passed over."""
    passed_over: list[PassedOver] = []
    for folder in reversed(run_dir.all_checkpoints):
        reason = why_unusable(folder)
        if reason is None:
            return folder, passed_over
        passed_over.append(PassedOver(folder, reason))
    return None, passed_over


def newest_verified(run_dir: RunDir) -> Path:
    """Return the newest checkpoint that verifies.

    Raises:
        NoCheckpointError: there is none; names what was passed over and why.
    """
    newest, passed_over = find_newest(run_dir)
    if newest is None:
        reasons = "".join(f"\n  {bad.folder.name}: {bad.reason}" for bad in passed_over)
        raise NoCheckpointError(f"{run_dir.checkpoints}: no usable checkpoint{reasons}")
    return newest


def best_verified(run_dir: RunDir) -> Path | None:
    """Return the checkpoint that `best` points to; None where nothing was ever the best.

    Raises:
        NoCheckpointError: there is a best checkpoint, and it is damaged.
    """
    folder = best(run_dir)
    if folder is None:
        return None
    reason = why_unusable(folder)
    if reason is not None:
        raise NoCheckpointError(
            f"{folder}: the best checkpoint {reason}. Take the last one instead: --weights last."
        )
    return folder


def best(run_dir: RunDir) -> Path | None:
    """Return the folder that `best` points to, be it there or not; None without such a link."""
    if not run_dir.best.is_symlink():
        return None
    return run_dir.checkpoints / run_dir.best.readlink().name


def point(name: Path, folder: Path) -> None:
    """Let `best` or `latest` point to a checkpoint, in one atomic rename."""
    link(name, folder)


def prune(
    run_dir: RunDir, keep_last: int, known: Collection[int] = (), best_step: int | None = None
) -> list[OSError]:
    """Remove old committed checkpoints; return what could not be removed.

    Never touched: the newest two that verify, the newest `keep_last`, the best, and damaged ones
    among the newer. `known`: steps that this process has written or verified, which need no reading
    again. `best_step`: the best one, where `best` doesn't say so yet.
    """
    folders = run_dir.committed
    verified = _newest_verified(folders, 2, known)
    if len(verified) < 2:
        return []
    oldest_kept = min(step_of(verified[-1]), *(step_of(path) for path in folders[-keep_last:]))
    kept = {best(run_dir), None if best_step is None else run_dir.checkpoint(best_step)}
    troubles = []
    for folder in folders:
        if step_of(folder) < oldest_kept and folder not in kept:
            try:
                discard(run_dir, folder)
            except OSError as error:
                troubles.append(error)
    return troubles


def _newest_verified(folders: list[Path], count: int, known: Collection[int]) -> list[Path]:
    found: list[Path] = []
    for folder in reversed(folders):
        if len(found) == count:
            break
        if step_of(folder) in known or why_unusable(folder) is None:
            found.append(folder)
    return found


def discard(run_dir: RunDir, folder: Path) -> None:
    """Remove a checkpoint; without its manifest a half-removed one can't be taken for one.

    Of a link only the link goes.

    Raises:
        OSError: something of it stays, such as files that no save has made; the error names it.
    """
    if folder.is_symlink():
        remove(folder, within=run_dir.root)
        return
    remove(folder / MANIFEST, within=run_dir.root)
    for path in sorted(folder.iterdir()):
        if is_ours(path.name):
            remove(path, within=run_dir.root)
    remove_empty(folder, within=run_dir.root)


def clear_away(run_dir: RunDir, folder: Path) -> Path | None:
    """Make room where something has a checkpoint's name and can't be used; return where it went.

    What was never committed holds nothing that is missed: it is removed, and its space is free
    again (None). What was committed and is damaged is put aside for whoever wants to look, and so
    is what no save has made.
    """
    is_unfinished = folder.is_dir() and not folder.is_symlink() and folder not in run_dir.committed
    if is_unfinished and all(is_ours(path.name) for path in folder.iterdir()):
        discard(run_dir, folder)
        return None
    require_within(folder, run_dir.root)
    aside = run_dir.checkpoints / "quarantine" / f"{folder.name}-{time.time_ns()}"
    ensure_folder(aside.parent)
    rename(folder, aside)
    return aside
