"""Locks on extensions that torch compiles: finds the holder, removes the locks of the dead.

torch takes it by making a file that it keeps open, names nobody in it, and waits without end where
there is one (torch.utils.file_baton). So a rank that has it puts a record beside it, under the
kernel's lock and renewed as that of a run folder is. This tells a dead builder on any host.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from launcher.errors import InputError
from launcher.files.read import real
from launcher.files.remove import remove_file
from launcher.lock import UNKNOWN, FolderLock, Holder, hold, holder_of

LOCK, RECORD = "lock", "builder.json"
NETWORK = (
    "nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "afs", "panfs", "wekafs", "9p",
    "fuse.sshfs", "fuse.gluster", "orangefs", "pvfs",
)  # fmt: skip
"""First letters of the types of file systems that several nodes share."""
OLD_SECONDS = 180.0
"""A lock without a record is taken to be dead once nothing has changed beside it for so long.

Who made it may be in another container, where nobody sees its processes. A file that takes longer
to compile is rarer than a build that was killed.
"""


def is_shared(path: Path) -> bool:
    """Return whether a path, or where it would be made, is on a network file system."""
    target = real(path)
    kinds = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for folder in (target, *target.parents):
        if folder in kinds:
            return kinds[folder].startswith(NETWORK)
    return False


def is_held_here(lock: Path) -> bool:
    """Tell whether this process has made the lock: it then has the file open."""
    path = str(real(lock))
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if str(descriptor.readlink()) == path:
                return True
    return False


def sign(lock: Path, command: str) -> FolderLock | None:
    """Put this process on record as the lock's holder until it is released, or ends.

    None while another process looks at the record (try again), or where it can't be written:
    another user's, a disk that is full or read-only.
    """
    try:
        return hold(lock.with_name(RECORD), command)
    except (InputError, OSError):
        return None


def builder_of(lock: Path) -> Holder | None:
    """Return the living process on record; None where none is.

    Of a record that can't be read, as another user's, the holder is taken to live.
    """
    try:
        return holder_of(lock.with_name(RECORD))
    except OSError:
        return UNKNOWN


def remove_if_dead(lock: Path) -> bool:
    """Remove a lock whose maker is gone; return whether it was removed.

    One without a record was made by a process that isn't ours. On a file system of several hosts
    nobody can tell whether that lives, so it stays.
    """
    try:
        seen = lock.stat()
        if not _is_dead(lock, seen):
            return False
    except OSError:
        return False
    removal = sign(lock, "launcher, removing a dead lock")
    if removal is None:
        return False  # somebody else is at it
    with removal:  # one process at a time
        try:
            now = lock.stat()
            # Removed and made anew meanwhile, a lock may have the same inode, and even the same
            # time on a coarse clock; but then its maker has it open.
            same = os.path.samestat(seen, now) and seen.st_ctime_ns == now.st_ctime_ns
            if not same or str(real(lock)) in set(_open_files()):
                return False
            remove_file(lock, within=lock.parent)
        except OSError:  # gone, another user's, a read-only disk
            return False
    return True


def locks_below(folder: Path) -> Iterator[Path]:
    """Yield them: a folder an extension, maybe below one for versions of Python and CUDA."""
    yield from folder.glob(f"*/{LOCK}")
    yield from folder.glob(f"*/*/{LOCK}")


def _is_dead(lock: Path, seen: os.stat_result) -> bool:
    if builder_of(lock) is not None or _compiles_in(lock.parent):
        return False
    try:
        signed = lock.with_name(RECORD).stat().st_mtime_ns >= seen.st_mtime_ns
    except FileNotFoundError:
        signed = False
    if signed:
        return True
    if seen.st_uid != os.geteuid() or is_shared(lock.parent):
        return False  # nobody here can see whether its maker lives
    changed = max(path.lstat().st_mtime for path in (lock, *lock.parent.iterdir()))
    return time.time() - changed > OLD_SECONDS and str(real(lock)) not in set(_open_files())


def _compiles_in(folder: Path) -> bool:
    """Tell whether ninja works in a folder on this host: it outlives a killed rank."""
    path = str(real(folder))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            if process.name() == "ninja" and process.cwd() == path:
                return True
    return False


def _open_files() -> Iterator[str]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            yield from (file.path for file in process.open_files())
