"""Folders of prepared data, found by their key and valid only once a done-marker names them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from launcher.files import replace_durably

FORMAT_VERSION = 2
"""Raised whenever the same input would give other files: old folders are then left alone."""

MARKER = "done.json"


@dataclass(frozen=True)
class Stored:
    """A complete folder and what was written into its marker."""

    folder: Path
    meta: dict[str, Any]


def key_of(settings: Mapping[str, Any]) -> str:
    """Digest of everything that decides what a folder holds."""
    text = json.dumps({"format_version": FORMAT_VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find(cache_dir: Path, key: str) -> Stored | None:
    """Return the folder of a key, or None if none was completed or files of it are gone or cut."""
    place = cache_dir / key
    try:
        marker = json.loads((place / MARKER).read_text())
    except (OSError, ValueError):
        return None
    folder = place / marker["folder"]
    if _sizes(folder) != marker["sizes"]:
        return None
    return Stored(folder, marker["meta"])


@contextmanager
def new_folder(cache_dir: Path, key: str) -> Iterator[Path]:
    """Give a folder of this process alone to build in; it is removed when building fails."""
    folder = cache_dir / key / f"build-{os.getpid()}-{uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def commit(folder: Path, meta: dict[str, Any]) -> Stored:
    """Make a built folder the valid one; if another process was faster, take that one's.

    Everything is on disk before the marker, and the marker appears by one rename. Two processes may
    both get here: each has a folder of its own, so whichever marker stays names complete files.
    """
    cache_dir, key = folder.parent.parent, folder.parent.name
    other = find(cache_dir, key)
    if other is not None:
        shutil.rmtree(folder)
        return other
    for path in [*(file for file in folder.rglob("*") if file.is_file()), folder]:
        _flush(path)
    marker = {"folder": folder.name, "sizes": _sizes(folder), "meta": meta}
    replace_durably(folder.parent / MARKER, json.dumps(marker, indent=1).encode())
    return Stored(folder, meta)


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
