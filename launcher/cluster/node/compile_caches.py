"""Where a node's ranks compile kernels: on its own disk, and never behind a lock of the dead."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from launcher.cluster.outcome import say
from launcher.compile_locks import is_shared, locks_below, remove_if_dead
from launcher.files.private import make_private


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
    versions = f"{python}-torch{version('torch')}"
    wanted = [name for name, home in homes.items() if name not in environ and is_shared(home)]
    return {name: str(_own_folder(base, (versions, name.lower()))) for name in wanted}


def _own_folder(base: Path, names: tuple[str, ...]) -> Path:
    """Return a folder that nobody else can put code into: the same each time, else a fresh one.

    Where everybody may write, somebody else may have made the usual one first.
    """
    user = f"launcher-{getpass.getuser()}"
    try:
        return make_private(base, (user, *names))
    except (PermissionError, FileExistsError) as error:
        say(f"{error.filename} {error.strerror}: kernels are compiled in a fresh folder.")
        return make_private(Path(tempfile.mkdtemp(prefix=f"{user}-", dir=base)), names)


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
