"""Lets tests see every change that a save makes on the disk, before it is made.

A test that wants to know what a kill, a full disk or a failing fsync does at any point of a save
puts a function into `observers`: it is called before every operation, and may raise or kill.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Observer = Callable[[str, Path, int], None]
"""Gets operation (mkdir, create, write, fsync, rename, unlink, rmdir), path and bytes."""
observers: list[Observer] = []


def announce(operation: str, path: Path, num_bytes: int = 0) -> None:
    """Tell all observers what is about to be done."""
    for observer in observers:
        observer(operation, path, num_bytes)
