"""What the report says in words and single numbers: outcome, verdict, key figures, notes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from launcher.files.read import Record
from launcher.metrics.console import duration
from launcher.metrics.report_charts import (
    GIB,
    best_step,
    memory_kind,
    monitor,
    overfitting_since,
)
from launcher.metrics.report_read import RunRecords, series, step_of, value_at

TIMES = "\N{MULTIPLICATION SIGN}"
ROUTINE = frozenset({"checkpoint", "evaluation_best"})


@dataclass(frozen=True)
class Outcome:
    """How the run ended, or that it has not."""

    label: str
    kind: str
    """`good`, `open` or `bad`: the colour."""


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    label: str
    value: str
    detail: str = ""


def outcome(records: RunRecords) -> Outcome:
    """Return how it ended; a failure counts until an attempt after it has started."""
    ended = records.summary.text("outcome")
    if ended is not None:
        known = {
            "finished": Outcome("Finished", "good"),
            "early_stopped": Outcome("Stopped early", "good"),
        }
        return known.get(ended, Outcome(ended, "open"))
    if failure(records):
        return Outcome("Failed", "bad")
    if records.attempts and records.attempts[-1].outcome == "lost":
        return Outcome("Lost", "bad")
    kinds = (event.text("kind") for event in reversed(records.events))
    if next((kind for kind in kinds if kind in ("start", "stop")), None) == "stop":
        return Outcome("Stopped, can go on", "open")
    return Outcome("Running", "open") if records.events else Outcome("Not started", "open")


def failure(records: RunRecords) -> Record:
    """Return what ended the newest attempt, if it failed."""
    event = records.last_event("failure")
    started = records.last_event("start")
    if event and records.events.index(event) > records.events.index(started or event) - 1:
        return Record({**event, **records.failure})
    began = _timestamp(started.get("time"))
    failed = records.failure.number("time")
    is_newer = failed is not None and (began is None or failed >= began)
    return records.failure if is_newer else Record()


def subtitle(records: RunRecords) -> list[str]:
    """Return what was trained, how and on what, in a few words each."""
    start, method = records.last_event("start"), records.setting("method", "type")
    rank = records.setting("method", "rank")
    parts = [
        records.setting("model", "path"),
        records.setting("model", "task"),
        f"{method}, rank {rank}" if rank else method,
        records.setting("model", "dtype"),
        f"ZeRO-{start['zero_stage']}" if "zero_stage" in start else None,
        _batch(start),
    ]
    return [str(part) for part in parts if part]


def _batch(start: Record) -> str | None:
    """Say how the rows of a step are spread, leaving out factors of one."""
    factors = [
        (start.integer(key) or 0, one)
        for key, one in (
            ("world_size", "rank"),
            ("micro_batch_size", "row"),
            ("gradient_accumulation_steps", "micro-batch"),
        )
    ]
    if not all(number for number, _ in factors):
        return None
    ending = {"micro-batch": "es"}
    said = [f"{number} {one}{ending.get(one, 's')}" for number, one in factors if number > 1]
    rows = math.prod(number for number, _ in factors)
    return f"{f' {TIMES} '.join(said) or '1 rank'} = {rows} row{'s' if rows > 1 else ''} a step"


def tiles(records: RunRecords) -> list[Tile]:
    """Return the key figures that are known."""
    found = [
        *_best_tiles(records),
        _steps_tile(records),
        _time_tile(records),
        _speed_tile(records),
        _memory_tile(records),
        _parameters_tile(records),
    ]
    return [tile for tile in found if tile is not None]


def notes(records: RunRecords) -> list[str]:
    """Return what a reader must not miss, most important first."""
    found = []
    since = overfitting_since(records)
    if since is not None:
        found.append(
            f"Overfitting since step {since:,}: validation loss rose while training loss fell."
        )
    for records_of, key, name in (
        (records.train, "train/loss", "training loss"),
        (records.evaluations, "validation/loss", "validation loss"),
        (records.train, "grad_norm", "gradient norm"),
    ):
        steps, values = series(records_of, key)
        bad = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
        if bad:
            found.append(f"The {name} was not finite at {len(bad):,} steps, first at {bad[0]:,}.")
    skipped = records.train[-1].integer("skipped_steps") if records.train else 0
    if skipped:
        found.append(f"{skipped:,} updates were skipped because a loss or gradient was not finite.")
    warnings = sum(event.text("kind") == "warning" for event in records.events)
    if warnings:
        found.append(f"{warnings:,} warning{'s' if warnings > 1 else ''} among the events below.")
    return found


def event_rows(records: RunRecords) -> list[dict[str, str]]:
    """Return time, step, kind and details of every event, newest last.

    Of a restart only what is not as it was before is told.
    """
    rows: list[dict[str, str]] = []
    last_start = Record()
    for event in records.events:
        detail = _detail(event)
        kind = event.text("kind") or ""
        if kind == "start":
            changed = {key: value for key, value in event.items() if last_start.get(key) != value}
            detail = _detail(changed) or "as before"
            last_start = event
        rows.append(
            {
                "time": _clock(event.get("time")),
                "step": _value(event.get("step", "")),
                "kind": kind,
                "group": "routine" if kind in ROUTINE else "notable",
                "detail": detail,
            }
        )
    return rows


def _best_tiles(records: RunRecords) -> list[Tile]:
    step = best_step(records)
    if step is None:
        return []
    loss = value_at(records.evaluations, step, "validation/loss")
    first = value_at(records.evaluations, 0, "validation/loss")
    detail = f"at step {step:,}"
    if loss is not None and first:
        detail += f" · {first:.4f} before ({loss / first - 1:+.0%})"
    label = "Best validation loss" if monitor(records) == "validation/loss" else "Validation loss"
    found = [Tile(label, f"{loss:.4f}", detail)] if loss is not None else []
    for key, name in (("validation/accuracy", "Accuracy"), ("validation/f1", "F1")):
        value = value_at(records.evaluations, step, key)
        before = value_at(records.evaluations, 0, key)
        if value is not None:
            said = f" · {before:.1%} before" if before is not None else ""
            found.append(Tile(name, f"{value:.1%}", f"at the best step{said}"))
    return found


def _steps_tile(records: RunRecords) -> Tile | None:
    if not records.train:
        return None
    last, total = records.train[-1], records.last_event("start").integer("total_steps")
    value = f"{step_of(last):,}" + (f" of {total:,}" if total else "")
    return Tile("Steps", value, f"{last.number('epoch') or 0.0:.2f} epochs")


def _time_tile(records: RunRecords) -> Tile | None:
    times = [time for event in records.events if (time := _timestamp(event.get("time")))]
    seconds = records.summary.number("seconds")
    label = "Training time"
    if seconds is None and len(times) > 1:
        seconds, label = max(times) - min(times), "Time since the start"
    if seconds is None:
        return None
    per_step = [value for value in series(records.train, "step_seconds")[1] if value > 0]
    detail = f"{statistics.median(per_step):.3g} s per step" if per_step else ""
    return Tile(label, duration(seconds), detail)


def _speed_tile(records: RunRecords) -> Tile | None:
    speeds = [value for value in series(records.train, "tokens_per_second")[1] if value > 0]
    if not speeds:
        return None
    tokens = records.train[-1].number("consumed_tokens") or 0.0
    return Tile("Tokens per second", f"{statistics.median(speeds):,.0f}", f"{count(tokens)} in all")


def _memory_tile(records: RunRecords) -> Tile | None:
    peaks = series(records.train, "peak_memory_bytes")[1]
    if not peaks:
        return None
    return Tile("Peak memory", f"{max(peaks) / GIB:.2f} GiB", memory_kind(records))


def _parameters_tile(records: RunRecords) -> Tile | None:
    start = records.last_event("start")
    trainable, total = start.number("trainable_parameters"), start.number("total_parameters")
    if not trainable or not total:
        return None
    share = trainable / total
    shown = "all" if share == 1 else f"{share:.2%}"
    return Tile("Trained parameters", count(trainable), f"{shown} of {count(total)}")


def count(value: float) -> str:
    """Return a large number in three digits: 22.7 M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _detail(event: Mapping[str, Any]) -> str:
    fields = {key: value for key, value in event.items() if key not in ("kind", "time", "step")}
    message = fields.pop("message", None)
    said = [f"{key.replace('_', ' ')} {_value(value)}" for key, value in fields.items()]
    return " · ".join(([str(message)] if message else []) + said)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _timestamp(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None


def _clock(text: Any) -> str:
    timestamp = _timestamp(text)
    if timestamp is None:
        return str(text or "")
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")
