"""Reads a run folder for the report: whatever of it exists, in whatever state the run left it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from launcher.attempts import Attempt, read_attempts
from launcher.files.lines import read_lines
from launcher.files.read import Record, read_record, read_text, real
from launcher.lock import holder_of
from launcher.run_dir import RunDir


@dataclass(frozen=True)
class RunRecords:
    """All that is known of a run, as read."""

    name: str
    train: list[Record] = field(default_factory=list)
    """Records of optimizer steps, in order."""
    evaluations: list[Record] = field(default_factory=list)
    """Records of evaluations, in order."""
    events: list[Record] = field(default_factory=list)
    summary: Record = field(default_factory=Record)
    """Empty while the run isn't finished."""
    data: Record = field(default_factory=Record)
    recipe: Record = field(default_factory=Record)
    recipe_text: str = ""
    failure: Record = field(default_factory=Record)
    """The last words of the rank that failed first, if that ended the last attempt."""
    attempts: list[Attempt] = field(default_factory=list)

    def setting(self, *keys: str) -> Any:
        """Return a value of the recipe; None where there is none."""
        value: Any = self.recipe
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def last_event(self, kind: str) -> Record:
        """Return the newest event of a kind; empty if there was none."""
        found = (event for event in reversed(self.events) if event.text("kind") == kind)
        return next(found, Record())

    @property
    def restart_steps(self) -> list[int]:
        """Steps from which the run went on after its first start."""
        starts = [event for event in self.events if event.text("kind") in ("start", "resume")]
        return sorted({event.integer("step") or 0 for event in starts[1:]})

    @property
    def last_step(self) -> int:
        """The newest step on record."""
        newest = (*self.train[-1:], *self.evaluations[-1:])
        return max((step_of(record) for record in newest), default=0)


def series(records: list[Record], key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of one metric; what was not finite stays so."""
    points = [(step_of(record), record.number(key)) for record in records]
    found = [(step, value) for step, value in points if value is not None]
    return [step for step, _ in found], [value for _, value in found]


def value_at(records: list[Record], step: int, key: str) -> float | None:
    """Return a metric at a step, if it was recorded and is finite."""
    for record in records:
        if step_of(record) == step:
            value = record.number(key)
            return value if value is not None and math.isfinite(value) else None
    return None


def read_run(run_dir: RunDir) -> RunRecords:
    """Read everything; what is missing or torn is left out, never an error."""
    lines = read_lines(run_dir.metrics).records
    metrics = [record for record in lines if record.integer("step") is not None]
    events = read_lines(run_dir.events).records
    recipe_text = _text(run_dir.resolved) or _text(run_dir.recipe)
    return RunRecords(
        name=real(run_dir.root).name,
        train=[record for record in metrics if "train/loss" in record],
        evaluations=[record for record in metrics if "train/loss" not in record],
        events=events,
        summary=read_record(run_dir.summary),
        data=read_record(run_dir.data_report),
        recipe=_yaml(recipe_text),
        recipe_text=recipe_text,
        failure=_failure(run_dir),
        attempts=read_attempts(run_dir, is_live=holder_of(run_dir.lock) is not None),
    )


def _failure(run_dir: RunDir) -> Record:
    """Return what ended the newest launch; where nobody watched it, its earliest failure."""
    launches = run_dir.launches
    if not launches:
        return Record()
    cause = read_record(launches[-1].cause)
    if cause:
        return cause
    found = [read_record(path) for path in launches[-1].failures]
    known = [failure for failure in found if failure]
    first = min(known, key=lambda failure: failure.number("time") or math.inf, default=None)
    return first or Record()


def step_of(record: Record) -> int:
    """Return the step of a record of `metrics.jsonl`; all that are read here have one."""
    return record.integer("step") or 0


def _text(path: Path) -> str:
    try:
        return read_text(path, errors="replace")
    except OSError:
        return ""


def _yaml(text: str) -> Record:
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (ValueError, RecursionError, YAMLError):
        return Record()
    return Record(value) if isinstance(value, dict) else Record()
