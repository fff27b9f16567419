"""Numbers, times and tables as short plain text, the same on a terminal and in a pipe."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from launcher.escape import for_terminal

NONE = "-"


def duration(seconds: float | None) -> str:
    """Return `h:mm:ss`, or a dash where nothing is known."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def ago(moment: float | None, now: float | None = None) -> str:
    """Return how long ago a moment (seconds since the epoch) was, in its largest unit."""
    if moment is None:
        return NONE
    seconds = max(0.0, (now or time.time()) - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def names(found: Sequence[str], most: int = 8) -> str:
    """Return names with commas; of more than `most` the first ones and how many there are."""
    if len(found) <= most:
        return ", ".join(found)
    return f"{', '.join(found[: most // 2])}, ... ({len(found)} nodes)"


def steps(step: int, total: int | None) -> str:
    """Return `step/total`."""
    return f"{step}/{total if total is not None else '?'}"


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Return rows as lines of aligned columns; the last column is as long as it is."""
    if not rows:
        return []
    shown = [[for_terminal(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    widths[-1] = 0
    return [
        indent
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
