"""What comes next in a run, and when, by the speed that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NextEvent:
    """The next thing in a run that isn't one more step."""

    what: str
    step: int
    seconds: float | None
    """Until then; None where no speed was measured."""

    def __str__(self) -> str:
        return f"{self.what} at step {self.step}"


@dataclass(frozen=True)
class Settings:
    """What is needed of a resolved recipe; missing keys have their defaults."""

    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    validates: bool = False
    max_steps: int | None = None
    max_hours: float | None = None
    global_batch_size: int | None = None
    monitor: str = "validation/loss"

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> Settings:
        """Take them out of the mapping that `resolved.yaml` is."""
        evaluate, checkpoint = _section(recipe, "evaluate"), _section(recipe, "checkpoint")
        data, train = _section(recipe, "data"), _section(recipe, "train")
        return cls(
            evaluate.get("every_steps"),
            checkpoint.get("every_steps"),
            bool(data.get("validation") or data.get("validation_fraction")),
            train.get("max_steps"),
            _section(recipe, "run").get("max_hours"),
            train.get("global_batch_size"),
            _section(recipe, "early_stopping").get("monitor") or "validation/loss",
        )


def next_event(
    settings: Settings,
    step: int,
    total_steps: int,
    steps_per_epoch: int | None,
    step_seconds: float | None,
) -> NextEvent | None:
    """Return the next evaluation, checkpoint or the end; None after the last step."""
    if step >= total_steps:
        return None
    due: dict[int, list[str]] = {total_steps: ["end"]}
    evaluate = settings.evaluate_every or steps_per_epoch
    checkpoint = settings.checkpoint_every or steps_per_epoch
    for what, every in (
        ("evaluation", evaluate if settings.validates else None),
        ("checkpoint", checkpoint),
    ):
        if every:
            at = (step // every + 1) * every
            if at < total_steps:
                due.setdefault(at, []).append(what)
    first = min(due)
    seconds = None if step_seconds is None else (first - step) * step_seconds
    return NextEvent(" and ".join(due[first]), first, seconds)


def steps_in_epoch(
    start: Mapping[str, Any], data: Mapping[str, Any], settings: Settings
) -> int | None:
    """Return the steps of an epoch: as the start said, or by the rows that the data report has."""
    if start.get("steps_per_epoch"):
        return int(start["steps_per_epoch"])
    rows = _section(data, "train").get("used")
    if not rows or not settings.global_batch_size:
        return None
    return math.ceil(int(rows) / settings.global_batch_size)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}
