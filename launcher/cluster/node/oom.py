"""Whether the kernel ended a rank for want of memory: a SIGKILL alone doesn't say who sent it.

The kernel counts such kills for each memory cgroup. The counter of the one that a rank was last
seen in is read when it is first seen and again once the rank has gone.
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and .../cgroup-v2.html#memory
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from launcher.files.read import read_text

PROC = Path("/proc")
UNLIMITED_BYTES = 1 << 60
"""Limits above this mean that there is none: version 1 writes a number where 2 writes "max"."""


@dataclass(frozen=True)
class MemoryGroup:
    """The memory cgroup of a process."""

    folder: Path
    version: int

    def kills(self) -> int:
        """Return how many processes the kernel has ended in it for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        try:
            lines = read_text(self.folder / name).splitlines()
        except OSError:  # removed with its last process
            return 0
        pairs = dict(line.split(maxsplit=1) for line in lines if " " in line)
        return int(pairs.get("oom_kill", 0))

    def limit_bytes(self) -> int | None:
        """Return its own limit; None where it has none."""
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        try:
            text = read_text(self.folder / name).strip()
        except OSError:
            return None
        return int(text) if text.isdigit() and int(text) < UNLIMITED_BYTES else None


def memory_group(pid: int, proc: Path = PROC) -> MemoryGroup | None:
    """Return the memory cgroup of a process; None where there is none or it can't be seen."""
    try:
        lines = read_text(proc / str(pid) / "cgroup").splitlines()
        mounts = _mounts(proc)
    except OSError:
        return None
    by_version = {}
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            by_version[1] = path
        elif number == "0":
            by_version[2] = path
    for version, path in sorted(by_version.items()):
        if version in mounts:
            root, mount = mounts[version]
            folder = mount / path.removeprefix(root).lstrip("/")
            counter = "memory.oom_control" if version == 1 else "memory.events"
            if (folder / counter).is_file():
                return MemoryGroup(folder, version)
    return None


@cache
def _mounts(proc: Path) -> dict[int, tuple[str, Path]]:
    """Return (path of the cgroup at the mount, mount) of the memory controllers, by version."""
    found = {}
    for line in read_text(proc / "self" / "mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(maxsplit=2)
        root, mount = fields.split()[3:5]
        if kind == "cgroup" and "memory" in options.split(","):
            found[1] = (root.rstrip("/"), Path(mount))
        elif kind == "cgroup2":
            found[2] = (root.rstrip("/"), Path(mount))
    return found


class MemoryWatch:
    """Remembers in which memory cgroups each process was seen, and their counts at first sight."""

    def __init__(self) -> None:
        self._seen: dict[int, list[MemoryGroup]] = {}
        self._kills_before: dict[MemoryGroup, int] = {}

    def look(self, pid: int) -> None:
        """Note the cgroup of a living process; it may be moved, and leaves it as it ends."""
        group = memory_group(pid)
        if group is not None and group not in self._seen.setdefault(pid, []):
            self._seen[pid].append(group)
            self._kills_before.setdefault(group, group.kills())

    def killed(self, pid: int) -> MemoryGroup | None:
        """Return the cgroup in which a process that is gone ran out of memory; None if not."""
        for group in reversed(self._seen.get(pid, [])):
            if group.kills() > self._kills_before[group]:
                return group
        return None
