"""What the elastic agent's own log says of the ranks that it saw end."""

from __future__ import annotations

import re
from pathlib import Path

from launcher.files.read import read_text

# As torch.distributed.elastic prints it, at once and again in a table when it ends:
# https://docs.pytorch.org/docs/stable/elastic/errors.html
MOST_BYTES = 1 << 28
AT_ONCE = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: \d+ \(pid: (\d+)\)")
IN_TABLE = re.compile(r"^  exitcode\s*:\s*(-?\d+) \(pid: (\d+)\)", re.MULTILINE)
PORT_IN_USE = re.compile(r"EADDRINUSE|address already in use|another process is utilizing it", re.I)


def port_was_taken(launch_log: Path) -> bool:
    """Return whether the agent could not listen where the ranks were to meet."""
    return bool(PORT_IN_USE.search(_read(launch_log)))


def ended_pids(launch_log: Path) -> dict[int, int]:
    """Return the exit code (negative: signal) of each process that failed, the first one first."""
    text = _read(launch_log)
    found: dict[int, int] = {}
    for code, pid in [*AT_ONCE.findall(text), *IN_TABLE.findall(text)]:
        found.setdefault(int(pid), int(code))
    return found


def _read(launch_log: Path) -> str:
    try:
        return read_text(launch_log, MOST_BYTES, errors="replace")
    except OSError:
        return ""
