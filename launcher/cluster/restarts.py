"""Whether a failed launch may start its ranks again by itself, and from where it would go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from launcher.cluster.outcome import Cause
from launcher.run_dir import RunDir, step_of

STUCK_ATTEMPTS = 3


@dataclass
class Restarts:
    """Counts the attempts of one launch, and those in a row that brought nothing."""

    run_dir: RunDir
    most: int
    """How often a launch may restart."""
    deadline: float | None = None
    done: int = 0
    newest: int = field(init=False)
    """Step of the newest committed checkpoint after the last attempt; 0 without one."""
    ended_at: list[int | None] = field(default_factory=list)
    """Where the attempts in a row without a new checkpoint ended."""

    def __post_init__(self) -> None:
        self.newest = newest_step(self.run_dir)

    def why_not(self, cause: Cause, step: int | None) -> str | None:
        """Take in how an attempt ended; return why there is no restart, None if there is one.

        An empty reason needs no words.
        """
        before, self.newest = self.newest, newest_step(self.run_dir)
        self.ended_at = [] if self.newest > before else [*self.ended_at, step]
        if not cause.can_restart or not self.most or not self.newest:
            return ""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "no restart: the time limit is reached."
        if len(self.ended_at) >= STUCK_ATTEMPTS:
            return f"no progress in {len(self.ended_at)} attempts: {_steps(self.ended_at)}."
        if self.done >= self.most:
            return f"no restart: {self.done} of {self.most} were used (run.max_restarts)."
        self.done += 1
        return None


def newest_step(run_dir: RunDir) -> int:
    """Return the step of the newest committed checkpoint, 0 without one; the ranks verify it."""
    folders = run_dir.committed
    return step_of(folders[-1]) if folders else 0


def _steps(ended_at: list[int | None]) -> str:
    if len(set(ended_at)) == 1:
        return "each ended " + (
            f"at step {ended_at[0]}" if ended_at[0] else "before its first step"
        )
    return "they ended at steps " + ", ".join(str(step or 0) for step in ended_at)
