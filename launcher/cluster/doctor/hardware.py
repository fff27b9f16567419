"""Processors, memory, GPUs, limits and links of this machine."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

import psutil

from launcher.cluster.doctor.check import GIB, Check, gibibytes
from launcher.cluster.node.devices import visible_gpus
from launcher.cluster.node.oom import memory_group

PATIENCE_SECONDS = 20
QUERY = "name,memory.total,memory.used,driver_version"
LEAST_SHARED_BYTES = 1 << 30
LEAST_FILES = 4096
SHARED = Path("/dev/shm")
INFINIBAND = Path("/sys/class/infiniband")


def hardware() -> list[Check]:
    """Return what this machine has."""
    return [_processors(), _memory(), *_gpus(), _shared_memory(), *_limits(), *_network()]


def _processors() -> Check:
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    return Check("processors", "ok", f"{usable} of {there} usable")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    found = f"{gibibytes(memory.available)} free of {gibibytes(memory.total)}"
    group = memory_group(os.getpid())
    limit = group.limit_bytes() if group is not None else None
    if limit is not None and limit < memory.total:
        found += f", limited to {gibibytes(limit)} (cgroup)"
    return Check("memory", "ok", found)


def _gpus() -> list[Check]:
    number = visible_gpus()
    if not number:
        return [Check("GPUs", "ok", "none here: ranks would run on CPUs (cluster.cpu_ranks)")]
    rows = _nvidia_smi()
    if not rows:
        cure = "Put nvidia-smi on the PATH, or ask whether the driver is well."
        return [Check("GPUs", "warning", f"{number}, and nvidia-smi has no answer", cure)]
    return [Check("GPUs", "ok", f"{number} usable"), *map(_gpu, rows)]


def _gpu(row: list[str]) -> Check:
    """Say one row of nvidia-smi's; memory in use before a run is somebody else's."""
    name, total, used, driver = row
    found = f"{name}, {used} of {total} MiB in use, driver {driver}"
    if used.isdigit() and total.isdigit() and int(used) > int(total) / 10:
        cure = "See whose it is with nvidia-smi; a run would have that much less."
        return Check("GPU", "warning", found, cure)
    return Check("GPU", "ok", found)


def _nvidia_smi() -> list[list[str]]:
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == len(QUERY.split(","))]


def _shared_memory() -> Check:
    name = "shared memory"
    if not SHARED.is_dir():
        cure = "Mount a tmpfs there: ranks of a machine talk through it."
        return Check(name, "missing", f"no {SHARED}", cure)
    size = shutil.disk_usage(SHARED).total
    found = f"{gibibytes(size)}, {SHARED}"
    if size < LEAST_SHARED_BYTES:
        return Check(name, "warning", found, "In a container: --shm-size=8g, or --ipc=host.")
    return Check(name, "ok", found)


def _limits() -> list[Check]:
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = locked == resource.RLIM_INFINITY
    found = "unlimited" if unlimited else f"{locked / GIB:.2f} GiB"
    checks = [Check("locked memory", "ok", found)]
    if not unlimited and _links():
        cure = "InfiniBand pins memory: ulimit -l unlimited, in Slurm PropagateResourceLimits."
        checks = [Check("locked memory", "warning", found, cure)]
    if 0 <= files < LEAST_FILES:
        cure = f"ulimit -n {LEAST_FILES if most < 0 else min(most, LEAST_FILES)}"
        return [*checks, Check("open files", "warning", str(files), cure)]
    return [*checks, Check("open files", "ok", "unlimited" if files < 0 else str(files))]


def _network() -> list[Check]:
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        f"{name} {address.address}"
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family.name == "AF_INET"
        and name in up
        and not address.address.startswith("127.")
    ]
    links = _links()
    infiniband = [Check("InfiniBand", "ok", ", ".join(links))] if links else []
    if found:
        return [Check("network", "ok", ", ".join(found)), *infiniband]
    cure = "Nothing to do on one machine; several nodes need an interface that they share."
    return [Check("network", "warning", "no interface but the loopback", cure), *infiniband]


def _links() -> list[str]:
    return sorted(path.name for path in INFINIBAND.iterdir()) if INFINIBAND.is_dir() else []
