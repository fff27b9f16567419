"""A memory limit for processes that already run: a control group, version 1 or 2."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
SEEN_SECONDS = 1.0
"""Several times what the launcher lets pass between two looks at its ranks."""


class MemoryLimit:
    """A new memory group beneath that of this process; needs root."""

    def __init__(self) -> None:
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

    def add(self, pid: int) -> None:
        """Put a process into the group; memory that it has already stays where it is.

        Outside of tests none is moved moments before its end: whoever watches it has seen it there.
        """
        (self._group / "cgroup.procs").write_text(str(pid))
        time.sleep(SEEN_SECONDS)

    def shrink_to(self, num_bytes: int) -> None:
        """Let the group have that much and no more."""
        names = ("memory.limit_in_bytes",) if self._old else ("memory.max",)
        for name in names:
            (self._group / name).write_text(str(num_bytes))
