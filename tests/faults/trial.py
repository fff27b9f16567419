"""A trial is one fault injected once: a name, what to run it on, and what has to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.setting import Bench, Setting


@dataclass(frozen=True)
class Trial:
    """`run` raises AssertionError where something doesn't hold, and says in a few words what came
    of it: the words become a cell of the table."""

    fault: str
    name: str
    setting: Setting
    run: Callable[[Bench, Setting, Path], str]

    def __str__(self) -> str:
        return f"{self.fault} {self.name} ({self.setting})"


def trials_on(
    settings: list[Setting],
    fault: str,
    named: dict[str, Callable[[Bench, Setting, Path], str]],
) -> list[Trial]:
    """Return one trial for each name and setting."""
    return [Trial(fault, name, setting, run) for setting in settings for name, run in named.items()]
