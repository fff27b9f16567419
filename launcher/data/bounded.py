"""Bounds time and memory of what a user's template does with one row."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from launcher.files.read import read_text

SECONDS = 10.0
"""A row takes milliseconds."""
BYTES = 1 << 30
"""Memory beyond what the process has; the text of a row is kilobytes."""


class TooLongError(Exception):
    """It took longer than SECONDS."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raise TooLongError after SECONDS, MemoryError beyond BYTES.

    The time is only bounded in the main thread, which alone gets signals.
    """
    with _memory(BYTES):
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, _raise)
        # Again and again: what is raised within a destructor is swallowed.
        signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory(num_bytes: int) -> Iterator[None]:
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(read_text(Path("/proc/self/statm")).split()[0])
    limit = pages * resource.getpagesize() + num_bytes
    if before != resource.RLIM_INFINITY:
        limit = min(limit, before)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise TooLongError
