"""What the elastic agent's own log says of the ranks that it saw end."""

from __future__ import annotations

import re

from launcher.run_dir import LogDir

# As torch.distributed.elastic prints it, at once and again in a table when it ends:
# https://docs.pytorch.org/docs/stable/elastic/errors.html
AT_ONCE = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: \d+ \(pid: (\d+)\)")
IN_TABLE = re.compile(r"^  exitcode\s*:\s*(-?\d+) \(pid: (\d+)\)", re.MULTILINE)


def ended_pids(logs: LogDir) -> dict[int, int]:
    """Return the exit code (negative: signal) of each process that failed, the first one first."""
    try:
        text = logs.launch.read_text(errors="replace")
    except OSError:
        return {}
    found: dict[int, int] = {}
    for code, pid in [*AT_ONCE.findall(text), *IN_TABLE.findall(text)]:
        found.setdefault(int(pid), int(code))
    return found
