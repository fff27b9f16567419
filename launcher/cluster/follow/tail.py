"""Reads files of records from their end: a metrics file may be hundreds of megabytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from statistics import median

from launcher.files.lines import LONGEST_BYTES, parse_record
from launcher.files.read import Record, opened
from launcher.run_dir import RunDir

BLOCK_BYTES = 1 << 16
FURTHEST_BYTES = 8 << 20
"""How far back an evaluation is looked for; further back the best one is known from the events."""
MOST_BYTES = 1 << 28
"""How far back anything is looked for: no launch writes as many bytes of events."""
STEPS_MEASURED = 20
"""How many records the speed is the median of."""


@dataclass(frozen=True)
class Newest:
    """The newest records of a run; empty where there are none."""

    train: Record = field(default_factory=Record)
    evaluation: Record = field(default_factory=Record)
    step_seconds: float | None = None
    """Median over the newest records."""
    tokens_per_second: float | None = None
    """Likewise; all ranks together."""


@dataclass(frozen=True)
class NewestEvents:
    """The newest start of a run and its best evaluation; empty where there are none."""

    start: Record = field(default_factory=Record)
    best: Record = field(default_factory=Record)


def newest_records(run_dir: RunDir) -> Newest:
    """Return what `metrics.jsonl` ends with."""
    train: list[Record] = []
    evaluation = Record()
    for line in lines_backwards(run_dir.metrics, FURTHEST_BYTES):
        is_train = '"train/loss"' in line
        if (is_train and len(train) == STEPS_MEASURED) or (not is_train and evaluation):
            continue
        record = parse_record(line) or Record()
        if record.integer("step") is None:
            continue
        if is_train:
            train.append(record)
        else:
            evaluation = record
        if evaluation and len(train) == STEPS_MEASURED:
            break
    return Newest(
        train[0] if train else Record(),
        evaluation,
        _median(train, "step_seconds"),
        _median(train, "tokens_per_second"),
    )


def newest_events(run_dir: RunDir) -> NewestEvents:
    """Return the newest start and the newest best evaluation."""
    start, best = Record(), Record()
    for line in lines_backwards(run_dir.events):
        if not best and '"evaluation_best"' in line:
            best = _event(line, "evaluation_best")
        elif not start and '"start"' in line:
            start = _event(line, "start")
        if start and best:
            break
    return NewestEvents(start, best)


def lines_backwards(path: Path, furthest_bytes: int = MOST_BYTES) -> Iterator[str]:
    """Yield the lines at the end of a file, last one first; none of a file that isn't there.

    A line that is still being written (no newline yet) is left out.
    """
    try:
        with opened(path) as file:
            yield from _backwards(file, furthest_bytes)
    except OSError:
        return


def _backwards(file: BufferedReader, furthest_bytes: int) -> Iterator[str]:
    position = file.seek(0, os.SEEK_END)
    first = max(0, position - furthest_bytes)
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
        rest = pieces[0][: LONGEST_BYTES + 1]  # what is longer is no record, whatever it holds
        for piece in reversed(pieces[1:]):
            yield piece.decode(errors="replace")
    if rest and first == 0:
        yield rest.decode(errors="replace")


def _event(line: str, kind: str) -> Record:
    record = parse_record(line)
    return record if record is not None and record.text("kind") == kind else Record()


def _median(records: list[Record], key: str) -> float | None:
    values = [value for record in records if (value := record.number(key)) is not None]
    return median(values) if values else None
