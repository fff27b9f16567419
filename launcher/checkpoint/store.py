"""The checkpoints of a run on disk: begun, committed, found again, pruned.

Nothing here talks to other ranks; `train/save.py` puts these steps between its barriers.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoint.manifest import (
    MANIFEST,
    STATE,
    Manifest,
    describe_files,
    files_below,
    fsync_path,
    why_unusable,
    write_json,
    write_manifest,
)
from launcher.errors import NoCheckpointError
from launcher.run_dir import RunDir


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint folder that can't be used, where it was put and why."""

    folder: Path
    reason: str


def begin(run_dir: RunDir, step: int) -> Path:
    """Make the empty folder of the checkpoint of `step`; a leftover one is put aside."""
    folder = run_dir.checkpoint(step)
    if folder.exists():
        quarantine(run_dir, folder)
    folder.mkdir(parents=True)
    return folder


def flush(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for path in files_below(folder):
        fsync_path(path)
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        fsync_path(path)


def commit(
    folder: Path,
    state: dict[str, Any],
    *,
    step: int,
    world_size: int,
    zero_stage: int,
    recipe_digest: str,
) -> Manifest:
    """Write the state and then the manifest, which makes the checkpoint exist; by one process."""
    write_json(folder / STATE, state)
    manifest = Manifest(step, world_size, zero_stage, recipe_digest, describe_files(folder))
    write_manifest(folder, manifest)
    return manifest


def read_state(folder: Path) -> dict[str, Any]:
    """Return the JSON state of a committed checkpoint."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


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


def point(link: Path, folder: Path) -> None:
    """Let a symbolic link of the run folder point to a checkpoint, in one atomic rename."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
    temporary.replace(link)


def prune(run_dir: RunDir, keep_last: int) -> list[Path]:
    """Remove old committed checkpoints; the newest two and the best are never touched."""
    keep = set(committed(run_dir)[-max(2, keep_last) :])
    if run_dir.best.is_symlink():
        keep.add(run_dir.checkpoints / run_dir.best.readlink().name)
    doomed = [folder for folder in committed(run_dir) if folder not in keep]
    for folder in doomed:
        # Without its manifest a half-removed folder can't be taken for a checkpoint.
        (folder / MANIFEST).unlink()
        shutil.rmtree(folder)
    return doomed


def quarantine(run_dir: RunDir, folder: Path) -> Path:
    """Move a folder that can't be used out of the way; nothing is deleted."""
    aside = run_dir.checkpoints / "quarantine" / f"{folder.name}-{time.time_ns()}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(aside)
    return aside
