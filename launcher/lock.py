"""One launch a run folder: who holds it is written in it, and a dead holder's lock is taken over.

The kernel's lock (flock) is held as long as its holder lives, and no longer. It may not be shared
between the hosts of a network file system, or not be there at all; so the holder also renews the
file's time stamp, and the file names its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.files.read import OddFileError, parse_json
from launcher.files.remove import remove_file
from launcher.files.write import ensure_folder, open_descriptor
from launcher.process import Process

RENEWAL_SECONDS = 10.0
FRESH_SECONDS = 60.0
"""A holder on another host that has renewed the file within this time is taken to be alive."""
LOOKS = 5


@dataclass(frozen=True)
class Holder:
    """The process that holds a run folder."""

    host: str
    pid: int
    started_ticks: int
    """When it was started, in clock ticks of its host: tells it from a later one of its number."""
    since: str
    command: str

    def __str__(self) -> str:
        return f"`{self.command}` on {self.host} (pid {self.pid}) since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this host."""
        return self.host == socket.gethostname()

    @property
    def is_alive_here(self) -> bool:
        """Whether it is a living process of this host."""
        return self.is_here and Process(self.pid, self.started_ticks).is_alive


class FolderLock:
    """The lock file of a run folder, held by this process until it is released, or ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._released = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._renewal.start()

    def release(self) -> None:
        """Let others have the folder; once is enough."""
        if self not in _held:
            return
        _held.remove(self)
        self._released.set()
        self._renewal.join()
        try:
            remove_file(self._path, within=self._path.parent)
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_SECONDS):
            # A failing disk says so where the run writes to it.
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)


_held: list[FolderLock] = []


def hold(path: Path, command: str) -> FolderLock:
    """Take the lock of a run folder, making the folder if there is none.

    Raises:
        InputError: another process holds it; names host, process and since when.
    """
    ensure_folder(path.parent)
    patience = LOOKS
    while True:
        try:
            descriptor = open_descriptor(path, os.O_RDWR | os.O_CREAT)
        except OddFileError as error:
            problem = Problem(str(path), "", f"{error.strerror}.", "Remove it.")
            raise InputError(problem) from None
        try:
            other = _holder_in_the_way(path, descriptor)
            if other is None and _is_same_file(path, descriptor):
                _sign(descriptor, command)
                lock = FolderLock(path, descriptor)
                _held.append(lock)
                return lock
        except BaseException:
            os.close(descriptor)  # with it goes the kernel's lock
            raise
        os.close(descriptor)
        if other is None:
            continue  # its holder has just released and removed it: take the next one
        patience -= 1
        if other.is_alive_here or not patience:
            raise InputError(_refusal(path, other))
        time.sleep(0.1)  # somebody may only be looking who holds it, which takes the lock too


def release_all() -> None:
    """Release what this process holds: for those that end without unwinding."""
    for lock in tuple(_held):
        lock.release()


def holder_of(path: Path) -> Holder | None:
    """Return the process that holds a run folder; None if nobody does.

    Nobody holds what is no file: a link, a pipe.
    """
    try:
        descriptor = open_descriptor(path, os.O_RDWR)
    except (FileNotFoundError, OddFileError):
        return None
    try:
        return _holder_in_the_way(path, descriptor)
    finally:
        os.close(descriptor)


UNKNOWN = Holder("an unknown host", 0, 0, "an unknown time", "launcher run")


def _holder_in_the_way(path: Path, descriptor: int) -> Holder | None:
    """Return who else holds the lock; None if it is this process's now, or whoever asks first's."""
    written = _read(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return written or UNKNOWN
    except OSError:  # no such locks on this file system
        if written is not None and written.is_here:
            return written if written.is_alive_here else None
    if written is None or written.is_here:
        return None
    return written if _age_seconds(path, descriptor) < FRESH_SECONDS else None


def _age_seconds(path: Path, descriptor: int) -> float:
    """Return how long ago the file was renewed, by the clock of the file system itself."""
    with tempfile.TemporaryFile(dir=path.parent) as probe:
        return os.fstat(probe.fileno()).st_mtime - os.fstat(descriptor).st_mtime


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder | None:
    try:
        record = parse_json(os.pread(descriptor, 4096, 0))
    except ValueError:
        return None
    match record:
        case {
            "host": str(host),
            "pid": int(pid),
            "started_ticks": int(ticks),
            "since": str(since),
            "command": str(command),
        }:
            return Holder(host, pid, ticks, since, command)
    return None


def _sign(descriptor: int, command: str) -> None:
    process = Process.find(os.getpid())
    assert process is not None, "this process is running"
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = Holder(socket.gethostname(), process.pid, process.started, since, command)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)


def _refusal(path: Path, holder: Holder) -> Problem:
    return Problem(
        str(path.parent),
        "",
        f"is held by {holder}.",
        f"Wait for it, ask it to stop (launcher stop {path.parent}), or choose another run.name.",
    )
