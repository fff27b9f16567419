"""SHA-256 of data files, remembered, because every rank needs them and files can be large."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

RACY_NANOSECONDS = 2_000_000_000
"""A file that changed this shortly before it was read may change again within one tick of its clock
(2 s on the coarsest file systems) and keep its time: its digest is not remembered."""


def file_digest(path: Path, cache_dir: Path) -> str:
    """Return the digest of a file's bytes; equal size, time and inode stand for equal bytes."""
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    memo = cache_dir / "digests" / f"{place}.json"
    state = _state(path)
    known = _read(memo)
    if known is not None and known.get("state") == state:
        return str(known["sha256"])
    read_at = time.time_ns()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _state(path) == state and state[1] + RACY_NANOSECONDS < read_at:
        write_atomically(memo, json.dumps({"state": state, "sha256": digest}))
    return digest


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see all of it or nothing, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{time.time_ns()}")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _read(memo: Path) -> dict[str, object] | None:
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return None  # never written, or torn: the digest is computed again
    return known if isinstance(known, dict) else None
