"""Folders of prepared data, found by their key and valid only once a done-marker names them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from launcher.data.cache import tokens_digest
from launcher.errors import InputError, Problem
from launcher.files.private import why_not_own
from launcher.files.read import read_object
from launcher.files.remove import remove
from launcher.files.write import ensure_folder, flush, make_folder, write_json

FORMAT_VERSION = 2
"""Raised whenever the same input would give other files: old folders are then left alone."""

MARKER = "done.json"


@dataclass(frozen=True)
class Stored:
    """A complete folder and what was written into its marker."""

    folder: Path
    meta: dict[str, Any]
    states: object = None
    """Size, times and inode of each file when it was written."""

    @property
    def altered(self) -> str | None:
        """The split whose files are no longer what was written; None if all are.

        Files whose times and inodes are as they were are not read.
        """
        if self.states == _states(self.folder):
            return None
        digests: dict[str, str] = self.meta.get("digests", {})
        return next((n for n, d in digests.items() if tokens_digest(self.folder / n) != d), None)


def key_of(settings: Mapping[str, Any]) -> str:
    """Digest of everything that decides what a folder holds."""
    text = json.dumps({"format_version": FORMAT_VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find(cache_dir: Path, key: str) -> Stored | None:
    """Return the folder of a key, or None if none was completed or files of it are gone or cut.

    Raises:
        InputError: somebody else could have written what lies there.
    """
    place = cache_dir / key
    marker = read_object(place / MARKER)
    if marker is None:
        return None
    match marker:
        case {"folder": str(name), "sizes": dict(sizes), "meta": dict(meta)}:
            folder = place / Path(name).name
        case _:
            return None
    if not folder.is_dir():
        return None
    _require_own(place, folder)
    if _sizes(folder) != sizes:
        return None
    return Stored(folder, meta, marker.get("states"))


def _require_own(*folders: Path) -> None:
    for folder in folders:
        reason = why_not_own(folder)
        if reason is not None:
            message = f"{reason}: others could change what is trained on."
            cure = "Choose another data.cache_dir."
            if "written to by others" in reason:
                cure += f" Or: chmod -R go-w {folders[0]}"
            raise InputError(Problem(str(folder), "data.cache_dir", message, cure))


@contextmanager
def new_folder(cache_dir: Path, key: str) -> Iterator[Path]:
    """Give a folder of this process alone to build in; it is removed when building fails."""
    folder = cache_dir / key / f"build-{os.getpid()}-{uuid4().hex[:8]}"
    ensure_folder(folder.parent)
    make_folder(folder)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # what went wrong is worth more
            remove(folder, within=cache_dir)
        raise


def commit(folder: Path, meta: dict[str, Any]) -> Stored:
    """Make a built folder the valid one; if another process was faster, take that one's.

    Everything is on disk before the marker, and the marker appears by one rename. Two processes may
    both get here: each has a folder of its own, so whichever marker stays names complete files.
    """
    cache_dir, key = folder.parent.parent, folder.parent.name
    other = find(cache_dir, key)
    if other is not None and other.altered is None:
        remove(folder, within=cache_dir)
        return other
    for path in [*(file for file in folder.rglob("*") if file.is_file()), folder]:
        flush(path)
    states = _states(folder)
    marker = {"folder": folder.name, "sizes": _sizes(folder), "states": states, "meta": meta}
    write_json(folder.parent / MARKER, marker)
    return Stored(folder, meta, states)


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _states(folder: Path) -> dict[str, list[int]]:
    found = {name: (folder / name).stat() for name in _sizes(folder)}
    return {
        name: [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        for name, state in found.items()
    }
