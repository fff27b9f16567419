"""What the ranks of a node are told of its network and its disks, where the user has not."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import sys
from pathlib import Path

import psutil

from launcher.world import host_name


def network_of(own_address: str) -> dict[str, str]:
    """Return variables that lead gloo and NCCL to the interface by which the nodes met.

    Left to themselves they take the first that looks right, which may be one (docker0, a
    management network) that other nodes don't reach:
    https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-socket-ifname
    """
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    interface = interface_of(own_address)
    if interface is None:
        return {}
    return {name: interface for name in names if name not in os.environ}


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has an address; None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.split("%")[0] == address for found in addresses):
            return name
    return None


def job_caches(job_id: str) -> dict[str, str]:
    """Return variables that keep a job's compiled kernels on the node's own disk.

    Several nodes that compile into one folder of a network file system get stale handles and torn
    files. What was compiled before is copied there, so that nothing is compiled twice. Nothing is
    set where the node has no folder for it, or the user has set it.
    """
    folder = _job_folder(job_id)
    if folder is None:
        return {}
    homes = {
        "TRITON_CACHE_DIR": Path.home() / ".triton" / "cache",
        "TORCH_EXTENSIONS_DIR": _torch_extensions(),
    }
    found = {}
    for name, home in homes.items():
        if name not in os.environ:
            found[name] = str(_own_copy(folder / name.lower(), home))
    return found


def remove_job_caches(job_id: str) -> None:
    """Remove what `job_caches` has made: not every cluster clears its nodes after a job."""
    folder = _job_folder(job_id)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _job_folder(job_id: str) -> Path | None:
    base = os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR")
    if not base or not Path(base).is_dir() or not os.access(base, os.W_OK):
        return None
    return Path(base) / f"launcher-{getpass.getuser()}-{job_id}-{host_name()}"


def _torch_extensions() -> Path | None:
    """Return where torch has put what it compiled for this Python; None if that isn't clear.

    It has a folder for each Python and device below its default folder, and none below one that it
    is given.
    """
    version = f"py{sys.version_info.major}{sys.version_info.minor}_*"
    found = list((Path.home() / ".cache" / "torch_extensions").glob(version))
    return found[0] if len(found) == 1 else None


def _own_copy(place: Path, home: Path | None) -> Path:
    """Make a folder of this job on this node, with what was compiled before in it.

    A lock that torch left or holds elsewhere would be waited for without end: it is not copied, and
    one that an earlier start of this job left is removed.
    """
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home is not None and home.is_dir() and not any(place.iterdir()):
        with contextlib.suppress(OSError, shutil.Error):  # then it is compiled anew
            shutil.copytree(home, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock"))
    for lock in place.rglob("lock"):
        lock.unlink(missing_ok=True)
    return place


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""In a job everything has been fetched; ranks that ask the hub once each would be refused."""
