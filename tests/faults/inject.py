"""Observers of a save: they count its operations, kill at one, fail it, or slow it down."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from launcher.files import observed
from tests.faults.attempt import kill_self


class Operations:
    """Calls `act` before one operation of a save; counts those of every save in the meantime.

    Operations belong to the save of `step` if they touch its folder, or follow one that does (the
    links, the pruning) before the next save begins.
    """

    def __init__(self, step: int, number: int, act: Callable[[str, Path], None]) -> None:
        self.seen: list[str] = []
        self._folder = f"step-{step:06d}"
        self._number = number
        self._act = act
        self._within = False
        self._lock = threading.Lock()

    def __call__(self, operation: str, path: Path, _num_bytes: int) -> None:
        with self._lock:
            if self._folder in path.parts:
                self._within = True
            elif operation in ("mkdir", "create") and "checkpoints" in path.parts:
                self._within = False
            if not self._within:
                return
            self.seen.append(f"{operation} {path.name}")
            chosen = len(self.seen) - 1 == self._number
        if chosen:
            self._act(operation, path)


def observe(observer: observed.Observer) -> None:
    """Let an observer see every operation of this process from now on."""
    observed.observers.append(observer)


def kill(_operation: str, _path: Path) -> None:
    """Kill this process before the operation."""
    kill_self()


def fail_fsync_of(step: int) -> observed.Observer:
    """Return an observer that fails every fsync in the folder of one step."""

    def observer(operation: str, path: Path, _num_bytes: int) -> None:
        if operation == "fsync" and f"step-{step:06d}" in path.parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    return observer


def throttle(bytes_per_second: float) -> observed.Observer:
    """Return an observer that makes writes take their time."""

    def observer(operation: str, _path: Path, num_bytes: int) -> None:
        if operation == "write":
            time.sleep(num_bytes / bytes_per_second)

    return observer
