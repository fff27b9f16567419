"""Reads a run folder for the report: whatever of it exists, in whatever state the run left it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from launcher.attempts import Attempt, read_attempts
from launcher.lock import holder_of
from launcher.metrics.jsonl import read_lines
from launcher.metrics.record import number
from launcher.run_dir import RunDir

Json = dict[str, Any]


@dataclass(frozen=True)
class RunRecords:
    """All that is known of a run, as read."""

    name: str
    train: list[Json] = field(default_factory=list)
    """Records of optimizer steps, in order."""
    evaluations: list[Json] = field(default_factory=list)
    """Records of evaluations, in order."""
    events: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    """Empty while the run isn't finished."""
    data: Json = field(default_factory=dict)
    recipe: Json = field(default_factory=dict)
    recipe_text: str = ""
    failure: Json = field(default_factory=dict)
    """The last words of the rank that failed first, if that ended the last attempt."""
    attempts: list[Attempt] = field(default_factory=list)

    def setting(self, *keys: str) -> Any:
        """Return a value of the recipe; None where there is none."""
        value: Any = self.recipe
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def last_event(self, kind: str) -> Json:
        """Return the newest event of a kind; empty if there was none."""
        return next((event for event in reversed(self.events) if event.get("kind") == kind), {})

    @property
    def restart_steps(self) -> list[int]:
        """Steps from which the run went on after its first start."""
        starts = [event for event in self.events if event.get("kind") in ("start", "resume")]
        return sorted({int(event.get("step", 0)) for event in starts[1:]})

    @property
    def last_step(self) -> int:
        """The newest step on record."""
        steps = [int(record["step"]) for record in (*self.train[-1:], *self.evaluations[-1:])]
        return max(steps, default=0)


def series(records: list[Json], key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of one metric; what was not finite stays so."""
    points = [(int(record["step"]), number(record.get(key))) for record in records]
    found = [(step, value) for step, value in points if value is not None]
    return [step for step, _ in found], [value for _, value in found]


def value_at(records: list[Json], step: int, key: str) -> float | None:
    """Return a metric at a step, if it was recorded and is finite."""
    for record in records:
        if record["step"] == step:
            value = number(record.get(key))
            return value if value is not None and math.isfinite(value) else None
    return None


def read_run(run_dir: RunDir) -> RunRecords:
    """Read everything; what is missing or torn is left out, never an error."""
    metrics = [record for record in read_lines(run_dir.metrics).records if "step" in record]
    events = read_lines(run_dir.events).records
    recipe_text = _text(run_dir.resolved) or _text(run_dir.recipe)
    return RunRecords(
        name=run_dir.root.resolve().name,
        train=[record for record in metrics if "train/loss" in record],
        evaluations=[record for record in metrics if "train/loss" not in record],
        events=events,
        summary=_json(run_dir.summary),
        data=_json(run_dir.data_report),
        recipe=_yaml(recipe_text),
        recipe_text=recipe_text,
        failure=_failure(run_dir),
        attempts=read_attempts(run_dir, is_live=holder_of(run_dir.lock) is not None),
    )


def _failure(run_dir: RunDir) -> Json:
    """Return what ended the newest launch; where nobody watched it, its earliest failure."""
    launches = run_dir.launches
    if not launches:
        return {}
    cause = _json(launches[-1].cause)
    if cause:
        return cause
    found = [_json(path) for path in launches[-1].failures]
    known = [failure for failure in found if failure]
    return min(known, key=lambda failure: number(failure.get("time")) or math.inf, default={})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> Json:
    try:
        value = json.loads(_text(path) or "{}")
    except json.JSONDecodeError:  # a run that is still writing, or was killed doing so
        return {}
    return value if isinstance(value, dict) else {}


def _yaml(text: str) -> Json:
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return {}
    return value if isinstance(value, dict) else {}
