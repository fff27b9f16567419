"""Where a node's ranks compile kernels: on its own disk, and never behind a lock of the dead."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import psutil

NETWORK = (
    "nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "afs", "panfs", "wekafs", "9p",
    "fuse.sshfs", "fuse.gluster", "orangefs", "pvfs",
)  # fmt: skip
"""How the types of file systems begin that several nodes share."""
OLD_SECONDS = 10.0
"""A lock that is younger may be about to be opened by whoever made it."""


def caches_here(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return variables that lead Triton and torch's extensions to this node's own disk.

    Several nodes that compile into one folder of a network file system get stale handles and torn
    files. Nothing is set where the user has done so, or the usual places are on a local disk.
    """
    homes = {
        "TRITON_CACHE_DIR": Path.home() / ".triton" / "cache",
        "TORCH_EXTENSIONS_DIR": extensions_folder({}),
    }
    base = Path(environ.get("SLURM_TMPDIR") or environ.get("TMPDIR") or "/tmp")
    if not base.is_dir() or not os.access(base, os.W_OK) or is_shared(base):
        return {}
    # What was compiled with other versions is of no use, and torch doesn't see the difference.
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    folder = base / f"launcher-{getpass.getuser()}" / f"{python}-torch{version('torch')}"
    found = {}
    for name, home in homes.items():
        if name not in environ and is_shared(home):
            (folder / name.lower()).mkdir(mode=0o700, parents=True, exist_ok=True)
            found[name] = str(folder / name.lower())
    return found


def extensions_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where torch compiles extensions, as torch.utils.cpp_extension chooses it."""
    chosen = environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "torch_extensions"


def is_shared(path: Path) -> bool:
    """Return whether a path, or where it would be made, is on a network file system."""
    target = path.resolve()
    kinds = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for folder in (target, *target.parents):
        if folder in kinds:
            return kinds[folder].startswith(NETWORK)
    return False


def clear_dead_locks(folder: Path) -> list[Path]:
    """Remove the locks that compilers left when they were killed; return them.

    torch takes a lock by making a file, waits without end where there is one, and keeps it open
    while it compiles (torch.utils.file_baton). On a file system of several hosts its holder may be
    on another one, so nothing is touched there.
    """
    if not folder.is_dir() or is_shared(folder):
        return []
    locks = [path for path in _locks(folder) if _age_seconds(path) > OLD_SECONDS]
    held = set(_open_files()) if locks else set()
    dead = [path for path in locks if str(path.resolve()) not in held]
    for path in dead:
        path.unlink(missing_ok=True)
    return dead


def _locks(folder: Path) -> Iterator[Path]:
    """Yield them: a folder an extension, maybe below one for versions of Python and CUDA."""
    yield from folder.glob("*/lock")
    yield from folder.glob("*/*/lock")


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # released meanwhile
        return 0.0


def _open_files() -> Iterator[str]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # ended meanwhile, or another user's
            yield from (file.path for file in process.open_files())
