"""Memory cgroups of this machine, to let the kernel end a process for want of memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from launcher.cluster.oom import memory_group


def new_memory_group(name: str) -> Path:
    """Make a memory cgroup below this process's own; skips loudly where that isn't allowed."""
    own = memory_group(os.getpid())
    try:
        assert own is not None, "no memory cgroup is mounted"
        folder = own.folder / name
        folder.mkdir()
    except (AssertionError, OSError) as error:
        pytest.skip(f"memory cgroups can't be made here: {error}")
    return folder


def limit_memory(folder: Path, num_bytes: int) -> None:
    """Limit what the processes of a cgroup may hold."""
    version_1 = folder / "memory.limit_in_bytes"
    (version_1 if version_1.exists() else folder / "memory.max").write_text(str(num_bytes))


def remove_memory_group(folder: Path) -> None:
    """Remove a cgroup once the kernel has taken the last process out of it."""
    deadline = time.monotonic() + 10
    while (folder / "cgroup.procs").read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    folder.rmdir()
