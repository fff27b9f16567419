"""After the fact: the attempts of a run in a table, and what its last one calls for."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.attempts import Attempt, next_action, spent
from launcher.cluster.follow.text import NONE, columns, names

__all__ = ["attempt_lines", "next_action", "spent_text"]

HEAD = ("attempt", "job", "nodes", "hours", "step", "ended", "why")


def attempt_lines(attempts: Sequence[Attempt]) -> list[str]:
    """Return one line an attempt, oldest first, under a head; none where there were none."""
    return columns([HEAD, *map(_row, attempts)]) if attempts else []


def spent_text(attempts: Sequence[Attempt]) -> str:
    """Return GPU-hours (without GPUs: node-hours) over all attempts, in words."""
    hours, unit = spent(attempts)
    number = "1 attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"
    return f"{number}, {hours:.2f} {unit}"


def _row(attempt: Attempt) -> tuple[str, ...]:
    again = f" (requeue {attempt.restart_count})" if attempt.restart_count else ""
    category = f"{attempt.category}: " if attempt.category and attempt.outcome == "failed" else ""
    return (
        str(attempt.number),
        f"{attempt.job_id}{again}" if attempt.job_id else NONE,
        names(attempt.nodes) or NONE,
        f"{attempt.hours():.2f}",
        NONE if attempt.step is None else str(attempt.step),
        attempt.outcome,
        f"{category}{attempt.why}" or NONE,
    )
