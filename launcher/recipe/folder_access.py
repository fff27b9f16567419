"""Whose a run folder is, and who may write to it."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import Problem
from launcher.files.read import real
from launcher.run_dir import RunDir


def not_writable(folder: Path, place: str) -> Iterator[Problem]:
    """Yield why a folder, or the nearest one above it that exists, is not ours to write."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    mode = stat.S_IMODE(existing.stat().st_mode)
    shown = f"{real(existing)} (mode {mode:04o})"
    if not existing.is_dir():
        yield Problem(place, "run.dir", f"{existing} is not a folder.")
    elif not mode & 0o222 or not os.access(existing, os.W_OK | os.X_OK):
        # The mode bits as well: to root, and only to root, everything looks writable.
        yield Problem(place, "run.dir", f"{shown} is read-only.", "Choose another run.dir.")
    elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        message = f"{shown} is writable by everyone, who could replace checkpoints."
        yield Problem(place, "run.dir", message, f"chmod o-w {existing}")


def of_another_user(run_dir: RunDir, place: str) -> Iterator[Problem]:
    """Yield a problem for a run whose folder or checkpoints somebody else wrote.

    Whoever wrote the weights decides what the model does. Only the first path is named, as the
    others are mostly the same mistake again.
    """
    checkpoints = run_dir.all_checkpoints
    inside = [path for folder in checkpoints for path in (folder, *folder.glob("*.json"))]
    for path in (run_dir.root, run_dir.resolved, run_dir.checkpoints, *inside):
        owner = path.lstat().st_uid if path.exists() or path.is_symlink() else os.geteuid()
        if owner != os.geteuid():
            message = f"{path} belongs to {_user(owner)}, and you are {_user(os.geteuid())}."
            cure = "Choose another run.name; or, if you trust its weights, add --trust-checkpoint."
            yield Problem(place, "run.name", message, cure)
            return


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
