"""What the report says of the attempts of a run: how long, where, why they ended, what to do."""

from __future__ import annotations

from typing import Any

from launcher.attempts import Attempt, spent
from launcher.metrics.console import duration

NONE = "\N{EN DASH}"
COLOURS = {"finished": "good", "failed": "bad", "lost": "bad"}


def attempts_section(attempts: list[Attempt]) -> dict[str, Any]:
    """Return the rows of the table, oldest first, and what was spent; empty without attempts."""
    if not attempts:
        return {}
    hours, unit = spent(attempts)
    number = f"{len(attempts):,} attempt{'s' if len(attempts) > 1 else ''}"
    return {"rows": [_row(found) for found in attempts], "spent": f"{number}, {hours:,.2f} {unit}"}


def _row(found: Attempt) -> dict[str, str]:
    requeue = f", requeue {found.restart_count}" if found.restart_count else ""
    return {
        "number": str(found.number),
        "job": f"{found.job_id}{requeue}" if found.job_id else NONE,
        "nodes": ", ".join(found.nodes) or NONE,
        "time": duration(3600 * found.hours()),
        "step": NONE if found.step is None else f"{found.step:,}",
        "outcome": found.outcome,
        "colour": COLOURS.get(found.outcome, "open"),
        "category": found.category or "",
        "first": _first(found),
        "why": found.why,
        "action": found.action,
    }


def _first(found: Attempt) -> str:
    """Name the rank that failed first and its node, or the node alone."""
    rank = None if found.rank is None else f"rank {found.rank}"
    return " on ".join(part for part in (rank, found.host) if part) or NONE
