"""Every change that a save makes on the disk: one function each, durable, and open to observers.

A test that wants to know what a kill, a full disk or a failing fsync does at any point of a save
puts a function into `observers`: it is called before every operation, and may raise or kill.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

BLOCK_BYTES = 16 * 1024 * 1024
"""Largest single write: how much a throttled or interrupted write loses at most."""

SMALL_BYTES = 1024 * 1024
"""Pieces below this are joined."""

Observer = Callable[[str, Path, int], None]
"""Gets operation (mkdir, create, write, fsync, rename, unlink, rmdir), path and bytes."""
observers: list[Observer] = []


def _announce(operation: str, path: Path, num_bytes: int = 0) -> None:
    for observer in observers:
        observer(operation, path, num_bytes)


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file of a checkpoint."""

    bytes: int
    sha256: str


class NewFile:
    """A file that must not exist yet, private to its owner, digested while it is written."""

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        self._pending = bytearray()
        _announce("create", path)
        # O_EXCL and O_NOFOLLOW: nobody's link can lead the write elsewhere.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, mode)

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`; small pieces wait for others, so that few writes are needed."""
        view = memoryview(data).cast("B")
        if len(view) < SMALL_BYTES:
            self._pending += view
        if len(view) >= SMALL_BYTES or len(self._pending) >= SMALL_BYTES:
            self._write_pending()
        if len(view) >= SMALL_BYTES:
            self._write_now(view)

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, bytearray()
        self._write_now(memoryview(pending))

    def _write_now(self, view: memoryview) -> None:
        try:
            while view:
                _announce("write", self._path, min(len(view), BLOCK_BYTES))
                written = os.write(self._descriptor, view[:BLOCK_BYTES])
                self._digest.update(view[:written])
                self._num_bytes += written
                view = view[written:]
        except OSError as error:
            error.filename = error.filename or str(self._path)  # a descriptor has no name
            raise

    def finish(self) -> FileRecord:
        """Flush to the disk; return what a reader has to find."""
        self._write_pending()
        _announce("fsync", self._path)
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise
        return FileRecord(self._num_bytes, self._digest.hexdigest())

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def write_json(path: Path, value: Any) -> FileRecord:
    """Write JSON under a temporary name, flush it and rename it into place; replaces `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with NewFile(temporary) as file:
        file.write(json.dumps(value, indent=1).encode())
        record = file.finish()
    rename(temporary, path)
    return record


def rename(source: Path, target: Path) -> None:
    """Rename within a file system, which is atomic, and flush the folder's entry."""
    _announce("rename", target)
    source.replace(target)
    flush(target.parent)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder so that its files are found after a power cut."""
    _announce("fsync", path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder that must not exist yet, with its parents."""
    _announce("mkdir", folder)
    folder.mkdir(parents=True)


def link(name: Path, folder: Path) -> None:
    """Let a symbolic link point to a folder beneath its parent, in one atomic rename."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(name.parent), target_is_directory=True)
    rename(temporary, name)


def remove(path: Path) -> None:
    """Remove one file, if it is there."""
    _announce("unlink", path)
    path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            remove(path)
    _announce("rmdir", folder)
    folder.rmdir()


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
