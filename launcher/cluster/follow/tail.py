"""Reads files of records from their end: a metrics file may be hundreds of megabytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from launcher.run_dir import RunDir

Json = dict[str, Any]

BLOCK_BYTES = 1 << 16
FURTHEST_BYTES = 8 << 20
"""How far back an evaluation is looked for; further back the best one is known from the events."""
STEPS_MEASURED = 20
"""How many records the speed is the median of."""


@dataclass(frozen=True)
class Newest:
    """The newest records of a run; empty where there are none."""

    train: Json = field(default_factory=dict)
    evaluation: Json = field(default_factory=dict)
    step_seconds: float | None = None
    """Median over the newest records."""
    tokens_per_second: float | None = None
    """Likewise; all ranks together."""


@dataclass(frozen=True)
class NewestEvents:
    """The newest start of a run and its best evaluation; empty where there are none."""

    start: Json = field(default_factory=dict)
    best: Json = field(default_factory=dict)


def newest_records(run_dir: RunDir) -> Newest:
    """Return what `metrics.jsonl` ends with."""
    train: list[Json] = []
    evaluation: Json = {}
    for line in lines_backwards(run_dir.metrics, FURTHEST_BYTES):
        is_train = '"train/loss"' in line
        if (is_train and len(train) == STEPS_MEASURED) or (not is_train and evaluation):
            continue
        record = _object(line)
        if is_train and record:
            train.append(record)
        elif record:
            evaluation = record
        if evaluation and len(train) == STEPS_MEASURED:
            break
    return Newest(
        train[0] if train else {},
        evaluation,
        _median(train, "step_seconds"),
        _median(train, "tokens_per_second"),
    )


def newest_events(run_dir: RunDir) -> NewestEvents:
    """Return the newest start and the newest best evaluation."""
    start: Json = {}
    best: Json = {}
    for line in lines_backwards(run_dir.events):
        if not best and '"evaluation_best"' in line:
            best = _object(line)
        elif not start and '"start"' in line:
            record = _object(line)
            start = record if record.get("kind") == "start" else {}
        if start and best:
            break
    return NewestEvents(start, best)


def lines_backwards(path: Path, furthest_bytes: int | None = None) -> Iterator[str]:
    """Yield the lines of a file, last one first; none of a file that isn't there.

    A line that is still being written (no newline yet) is left out.
    """
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        position = file.seek(0, os.SEEK_END)
        first = max(0, position - furthest_bytes) if furthest_bytes is not None else 0
        rest: bytes | None = None  # what stands before the first newline of the block after
        while position > first:
            size = min(BLOCK_BYTES, position - first)
            position -= size
            file.seek(position)
            pieces = (file.read(size) + (rest or b"")).split(b"\n")
            if rest is None:
                pieces.pop()
                if not pieces:
                    continue
            rest = pieces[0]
            for piece in reversed(pieces[1:]):
                yield piece.decode(errors="replace")
        if rest and first == 0:
            yield rest.decode(errors="replace")


def _object(line: str) -> Json:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _median(records: list[Json], key: str) -> float | None:
    values = [float(record[key]) for record in records if isinstance(record.get(key), int | float)]
    return median(values) if values else None
