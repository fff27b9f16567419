"""Slurm's way of writing durations, read and written."""

from __future__ import annotations

DAY = 86400


def seconds_of(text: str) -> int | None:
    """Return the seconds of a time as sbatch takes it and Slurm prints it; None: without a limit.

    `90` is minutes, `90:30` minutes and seconds, `1:30:00`; with days, hours come first: `2-12`,
    `2-12:30`, `2-12:30:00` (https://slurm.schedmd.com/sbatch.html#OPT_time).

    Raises:
        ValueError: it is none of these.
    """
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE", "NOT_SET", "INVALID", "N/A", ""):
        return None
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return int(days or 0) * DAY + hours * 3600 + minutes * 60 + seconds


def duration(seconds: int) -> str:
    """Return seconds as Slurm prints them: `01:30:00`, `2-12:00:00`."""
    days, rest = divmod(seconds, DAY)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock
