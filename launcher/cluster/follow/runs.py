"""`launcher runs`: all runs of a folder in a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.cluster.follow.facts import RunState
from launcher.cluster.follow.read import Queue, Unreadable, read_states, runs_in
from launcher.cluster.follow.text import NONE, ago, columns, steps
from launcher.errors import InputError, Problem
from launcher.files.read import real

HEAD = ("run", "state", "step", "best", "last update", "job", "hours")


def list_runs(folder: Path) -> str:
    """Return the table of all runs of a folder, the one that was written to last at the end.

    Raises:
        InputError: the folder isn't there, or holds no run.
    """
    found = runs_in(folder)
    if not found:
        raise InputError(
            Problem(str(folder), "", "holds no run.", "Name the folder that run folders are in.")
        )
    return "\n".join(table(read_states(found, Queue())))


def table(states: Sequence[RunState | Unreadable]) -> list[str]:
    """Return one line a run, under a head."""
    return columns([HEAD, *map(_row, states)])


def _row(state: RunState | Unreadable) -> tuple[str, ...]:
    if isinstance(state, Unreadable):
        name = real(state.run_dir.root).name
        return (name, "unreadable", NONE, NONE, NONE, NONE, state.reason)
    best = state.best
    return (
        state.name,
        state.state,
        steps(state.step, state.total_steps),
        NONE if best is None else f"{best.value:.4f} {best.metric.removeprefix('validation/')}",
        ago(state.updated),
        state.job_id or NONE,
        f"{state.hours:.2f}",
    )
