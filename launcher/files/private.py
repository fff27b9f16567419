"""Folders that only this user can change: what lies there may be loaded as code or trained on."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path


def make_private(base: Path, names: Sequence[str]) -> Path:
    """Make nested folders beneath `base`, where they aren't yet, and return the innermost.

    Raises:
        PermissionError: one of them, at whatever level, is somebody else's, or others can write to
            it; `strerror` says which it is.
        OSError: one can't be made.
    """
    folder = base
    for name in names:
        folder = folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        require_own(folder)
    return folder


def require_own(folder: Path) -> None:
    """Raise PermissionError unless a folder is one, is this user's, and nobody else's to write."""
    reason = why_not_own(folder)
    if reason is not None:
        raise PermissionError(1, reason, str(folder))


def why_not_own(folder: Path) -> str | None:
    """Return why others could have changed what is in a folder; None if they could not.

    Raises:
        OSError: it can't be looked at.
    """
    found = folder.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return f"is a link to {folder.readlink()}"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.geteuid():
        return f"belongs to uid {found.st_uid}"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written to by others (mode {mode:04o})"
    return None
