"""SHA-256 of data files, remembered, because every rank needs them and files can be large."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from launcher.files.read import read_object, real, sha256_of
from launcher.files.write import ensure_folder, replace_durably

RACY_NANOSECONDS = 2_000_000_000
"""A file that changed this shortly before it was read may change again within one tick of its clock
(2 s on the coarsest file systems) and keep its time: its digest is not remembered."""


def file_digest(path: Path, cache_dir: Path) -> str:
    """Return the digest of a file's bytes; equal size, times and inode stand for equal bytes."""
    place = hashlib.sha256(str(real(path)).encode()).hexdigest()[:32]
    memo = cache_dir / "digests" / f"{place}.json"
    state = _state(path)
    known = read_object(memo)
    if known is not None and known.get("state") == state:
        return str(known["sha256"])
    read_at = time.time_ns()
    digest = sha256_of(path)
    if _state(path) == state and max(state[1], state[2]) + RACY_NANOSECONDS < read_at:
        ensure_folder(memo.parent)
        replace_durably(memo, json.dumps({"state": state, "sha256": digest}).encode())
    return digest


def _state(path: Path) -> list[int]:
    found = path.stat()
    # The time of the last change too, which nobody can set: a rewritten file may keep the other.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
