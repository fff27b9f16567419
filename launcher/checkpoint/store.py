"""The checkpoints of a run on disk: begun, committed, found again, pruned.

Nothing here talks to other ranks; `train/saver.py` and `train/resume.py` do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from launcher.checkpoint.disk import link, make_folder, remove, remove_tree
from launcher.checkpoint.manifest import MANIFEST, why_unusable
from launcher.errors import NoCheckpointError
from launcher.run_dir import RunDir


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint folder that can't be used, where it was put and why."""

    folder: Path
    reason: str


def begin(run_dir: RunDir, step: int) -> Path:
    """Make the empty folder of the checkpoint of `step`; a leftover one makes room."""
    folder = run_dir.checkpoint(step)
    if folder.exists():
        clear_away(run_dir, folder)
    make_folder(folder)
    return folder


def committed(run_dir: RunDir) -> list[Path]:
    """Return the folders that have a manifest, oldest first; their files are not verified."""
    return sorted(path.parent for path in run_dir.checkpoints.glob(f"step-*/{MANIFEST}"))


def find_newest(run_dir: RunDir) -> tuple[Path | None, list[PassedOver]]:
    """Return the newest checkpoint that verifies and the newer folders that were passed over."""
    passed_over: list[PassedOver] = []
    for folder in sorted(run_dir.checkpoints.glob("step-*"), reverse=True):
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
    if not run_dir.best.is_symlink():
        return None
    folder = run_dir.checkpoints / run_dir.best.readlink().name
    reason = why_unusable(folder)
    if reason is not None:
        raise NoCheckpointError(
            f"{folder}: the best checkpoint {reason}. Take the last one instead: --weights last."
        )
    return folder


def point(name: Path, folder: Path) -> None:
    """Let `best` or `latest` point to a checkpoint, in one atomic rename."""
    link(name, folder)


def prune(run_dir: RunDir, keep_last: int) -> list[Path]:
    """Remove old committed checkpoints; the newest two and the best are never touched."""
    keep = set(committed(run_dir)[-max(2, keep_last) :])
    if run_dir.best.is_symlink():
        keep.add(run_dir.checkpoints / run_dir.best.readlink().name)
    doomed = [folder for folder in committed(run_dir) if folder not in keep]
    for folder in doomed:
        discard(folder)
    return doomed


def discard(folder: Path) -> None:
    """Remove a checkpoint; without its manifest a half-removed one can't be taken for one."""
    remove(folder / MANIFEST)
    remove_tree(folder)


def clear_away(run_dir: RunDir, folder: Path) -> Path | None:
    """Make room where a folder can't be used, and return where it went.

    What was never committed holds nothing that is missed: it is removed, and its space is free
    again (None). What was committed and is damaged is put aside for whoever wants to look.
    """
    if not (folder / MANIFEST).exists():
        remove_tree(folder)
        return None
    aside = run_dir.checkpoints / "quarantine" / f"{folder.name}-{time.time_ns()}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(aside)
    return aside
