"""A memory limit for processes that already run: a control group, version 1 or 2."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

from tests.support.programs import need_root

ROOT = Path("/sys/fs/cgroup")
SEEN_SECONDS = 1.0
"""Several times what the launcher lets pass between two looks at its ranks."""


class MemoryLimit:
    """A new memory group beneath that of this process; a test without root is skipped."""

    def __init__(self) -> None:
        need_root("a memory limit")
        first = Path("/proc/self/cgroup").read_text().splitlines()
        groups = {line.split(":")[1]: line.split(":")[2] for line in first}
        name = f"limit-{os.getpid()}-{time.monotonic_ns()}"
        self._old = "memory" in groups
        base = ROOT / "memory" if self._old else ROOT
        self._home = base / groups["memory" if self._old else ""].lstrip("/")
        self._group = self._home / name

    def __enter__(self) -> MemoryLimit:
        self._group.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (self._group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (self._home / "cgroup.procs").write_text(pid)
        self._group.rmdir()

    def add(self, pid: int, limit_bytes: int) -> None:
        """Put a process into the group and limit it; memory that it has already stays elsewhere.

        It stands still for a second between the two, so that whoever watches it sees it there: a
        process is not moved moments before its end but in a test.
        """
        process = psutil.Process(pid)
        process.suspend()
        (self._group / "cgroup.procs").write_text(str(pid))
        time.sleep(SEEN_SECONDS)
        name = "memory.limit_in_bytes" if self._old else "memory.max"
        (self._group / name).write_text(str(limit_bytes))
        process.resume()
