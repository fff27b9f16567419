"""What is measured of one save, on one rank and over all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Clock:
    """Wall-clock and CPU seconds of a `with` block, the CPU's of all threads of this process."""

    wall: float = 0.0
    cpu: float = 0.0
    ended: float = 0.0
    """`time.perf_counter()` at the end."""

    def __enter__(self) -> Clock:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = time.perf_counter()
        self.wall = self.ended - self._wall
        self.cpu = time.process_time() - self._cpu


@dataclass(frozen=True)
class Save:
    """One save: what training waited for, and what went on behind it."""

    stall_seconds: float
    stall_cpu_seconds: float
    num_bytes: int = 0
    """Of the files, as they lie there afterwards."""
    background_seconds: float = 0.0
    """From the return of the call until the last byte was written and flushed."""
    background_cpu_seconds: float = 0.0
    """Of the threads that wrote, in that time."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the parts of the stall that are timed by themselves."""
    throttled_bytes: int = 0
    """Of all writes, as the slow disk counted them."""

    @property
    def bytes_per_second(self) -> float:
        """What lies on the disk, over the time from the call until all of it was there."""
        return self.num_bytes / (self.stall_seconds + self.background_seconds)


def over_ranks(saves: Sequence[Save]) -> Save:
    """Join what the ranks measured: the slowest one's time is everybody's, CPU and bytes add up."""
    slowest = max(saves, key=lambda save: save.stall_seconds)
    return Save(
        stall_seconds=slowest.stall_seconds,
        stall_cpu_seconds=sum(save.stall_cpu_seconds for save in saves),
        num_bytes=sum(save.num_bytes for save in saves),
        background_seconds=max(save.background_seconds for save in saves),
        background_cpu_seconds=sum(save.background_cpu_seconds for save in saves),
        parts=slowest.parts,
    )


def bytes_below(folder: Path) -> int:
    """Return the size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(parts: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which adds the seconds of each call to a part."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - began

    return wrapper


def require_equal(found: Any, expected: Any, what: str) -> None:
    """Stop the benchmark where a checkpoint doesn't hold what was saved."""
    if found.dtype != expected.dtype or not bool((found == expected).all()):
        raise AssertionError(f"{what}: what was read back is not what was in memory")
