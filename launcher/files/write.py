"""Writes files: under a fresh name of our own, private, and renamed into place once whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from launcher.files.observed import announce
from launcher.files.read import OddFileError
from launcher.files.remove import remove

BLOCK_BYTES = 16 * 1024 * 1024
"""Largest single write: how much a throttled or interrupted write loses at most."""

SMALL_BYTES = 1024 * 1024
"""Pieces below this are joined."""


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
        announce("create", path)
        self._descriptor = _create(path, mode)

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
                announce("write", self._path, min(len(view), BLOCK_BYTES))
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
        announce("fsync", self._path)
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


def replace_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Put `text` in place of a file: whoever reads it sees the old or the new, never a part.

    Not flushed to the disk: for what is of use only while its writer lives.
    """
    replace_bytes(path, text.encode(), mode)


def replace_bytes(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` in place of a file, as `replace_text` does."""
    with _fresh_name(path) as temporary:
        with os.fdopen(_create(temporary, mode), "wb") as file:
            file.write(data)
        temporary.replace(path)


def replace_durably(path: Path, data: bytes) -> FileRecord:
    """Put `data` in place of a file and flush it: also after a crash it is whole, old or new."""
    with _fresh_name(path) as temporary:
        with NewFile(temporary) as file:
            file.write(data)
            record = file.finish()
        rename(temporary, path)
    return record


def write_json(path: Path, value: Any) -> FileRecord:
    """Put a value in place of a file, durably."""
    return replace_durably(path, json.dumps(value, indent=1).encode())


def rename(source: Path, target: Path) -> None:
    """Rename within a file system, which is atomic, and flush the folder's entry."""
    announce("rename", target)
    source.replace(target)
    flush(target.parent)


def put_aside(path: Path) -> Path:
    """Give what lies in the way another name beside it, whatever it is; return that."""
    aside = path.with_name(f"{path.name}.{time.time_ns()}")
    rename(path, aside)
    return aside


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder so that its files are found after a power cut."""
    announce("fsync", path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may be a pipe
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder that must not exist yet, its owner's alone, and what is missing above it."""
    announce("mkdir", folder)
    folder.mkdir(mode=mode, parents=True)


def ensure_folder(folder: Path) -> None:
    """Make a folder, its owner's alone, where there is none yet, and what is missing above it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def filled_aside(folder: Path) -> Iterator[Path]:
    """Yield a fresh folder to fill; its files then take their places in `folder`, one by one.

    For libraries that write by name: into `folder` itself they would follow links that lie there.
    Files of other names stay.
    """
    if folder.is_symlink():
        remove(folder, within=folder.parent)
    ensure_folder(folder)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        yield Path(name)
        for path in sorted(Path(name).iterdir()):
            target = folder / path.name
            if target.is_dir() and not target.is_symlink():
                # What the last one wrote, or somebody's: a file can't take its place.
                if path.is_dir():
                    remove(target, within=folder)
                else:
                    put_aside(target)
            path.replace(target)


def link(name: Path, folder: Path) -> None:
    """Let a symbolic link point to a folder beneath its parent, in one atomic rename."""
    with _fresh_name(name) as temporary:
        temporary.symlink_to(folder.relative_to(name.parent), target_is_directory=True)
        rename(temporary, name)


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner can read."""
    with os.fdopen(_create(path), "wb") as file:
        file.write(text.encode())


def open_descriptor(path: Path, flags: int) -> int:
    """Open a file that may be there already, and is made private where it isn't; never by a link.

    Raises:
        OddFileError: it is a link, or no regular file.
        OSError: it can't be opened.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):  # opening some does something
        raise OddFileError(errno.EINVAL, "is no regular file", str(path))
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OddFileError(errno.EINVAL, "is no regular file", str(path))
    return descriptor


def append_descriptor(path: Path) -> int:
    """Open a file to append to, as `open_descriptor` does."""
    return open_descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def open_append(path: Path) -> TextIO:
    """Open a file to append lines to, as `open_descriptor` does."""
    return os.fdopen(append_descriptor(path), "a", encoding="utf-8")


def open_emptied(path: Path) -> TextIO:
    """Open a file to write anew while others read it, as `open_descriptor` does."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.fdopen(open_descriptor(path, flags), "w", encoding="utf-8")


def append_durably(path: Path, lines: Iterable[str]) -> None:
    """Append whole lines and flush them to the disk."""
    with open_append(path) as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    flush(path.parent)  # it may be new


def create_binary(path: Path) -> BufferedWriter:
    """Open a file that must not exist yet to write bytes to, private to its owner."""
    return os.fdopen(_create(path), "wb")


def _create(path: Path, mode: int = 0o600) -> int:
    # O_EXCL and O_NOFOLLOW: nobody's link can lead the write elsewhere.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, mode)


@contextlib.contextmanager
def _fresh_name(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` that nobody can have made; a failure leaves nothing there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is what matters
            temporary.unlink(missing_ok=True)
        raise
