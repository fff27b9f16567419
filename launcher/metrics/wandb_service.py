"""Ends the process that wandb runs beside ours: at exit it waits for a server that is not there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

from launcher.files.read import read_text

_PROCESSES = Path("/proc")  # absent on other systems than Linux, where nothing is ended
_STAT = re.compile(r"(?P<pid>\d+) \((?P<name>.*)\) \S (?P<parent>\d+) ", re.DOTALL)  # proc(5)


def end_service() -> None:
    """Kill the wandb-core processes that this process started; what they wrote can be synced."""
    for path in _PROCESSES.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            stat = _STAT.match(read_text(path, errors="replace"))
            if (
                stat is not None
                and stat["name"].startswith("wandb-core")
                and int(stat["parent"]) == os.getpid()
            ):
                os.kill(int(stat["pid"]), signal.SIGKILL)
