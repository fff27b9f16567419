"""Where a node's ranks compile kernels: on its own disk, and never behind a lock of the dead."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from launcher.compile_locks import is_shared, locks_below, remove_if_dead


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


def clear_dead_locks(folder: Path) -> list[Path]:
    """Remove the locks of compilers that are gone; return them."""
    return [lock for lock in locks_below(folder) if remove_if_dead(lock)]
