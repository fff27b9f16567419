"""Small files that one process writes while another reads them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str) -> None:
    """Put `text` in place of a file: whoever reads it sees the old or the new, never a part.

    Not flushed to the disk: for what is of use only while its writer lives.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def replace_durably(path: Path, data: bytes) -> None:
    """Put `data` in place of a file and flush it: also after a crash it is whole, old or new."""
    # Two hosts that share the folder may have processes of one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.time_ns()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is no such file, or no object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def modified(path: Path) -> float | None:
    """Return when a file was written last, in seconds since the epoch; None if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
