"""Turns the rows of all parts into the two caches of a run, in one process and one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NoReturn

from launcher.data.cache import CacheWriter, content_digest
from launcher.data.labels import name_of
from launcher.data.rows import BrokenPart, Encoded, Encoder, Part, Row, RowError
from launcher.errors import InputError, Problem

BATCH_ROWS = 1000
"""Rows per call of the tokenizer: enough to keep its threads busy."""

MAX_PROBLEMS = 10
"""Problems listed; reading stops there, since the rest are mostly the same mistake again."""

MAX_ROWS_AFTER = 10_000
"""Rows looked at after the first problem: enough to list others, and no hour until it is said."""

MAX_EXAMPLES = 5
"""Skipped rows that the report names."""

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class Limits:
    """What a row must keep to."""

    max_seq_len: int
    overlong: Literal["truncate", "drop", "error"]
    bad_rows: Literal["error", "skip"] = "error"


@dataclass
class SplitCounts:
    """What became of the rows of one split."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows left out by reason: `empty`, `overlong`, `no_targets`, `no_targets_left` (cut off), and
    `bad`, which can't be read or used."""
    bad_examples: list[str] = field(default_factory=list)
    """The first bad rows, each with its place."""
    formats: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    cut_tokens: int = 0
    without_end: int = 0
    """Complete rows whose last target is no control token: they don't teach the model to stop."""
    double_starts: int = 0
    """Rows that begin with the same control token twice, such as a double BOS."""


class Problems:
    """Collects what is wrong with rows: up to `MAX_PROBLEMS`, or counts those to be skipped."""

    def __init__(self, limits: Limits) -> None:
        self._found: list[Problem] = []
        self._rows_after = 0
        self._skips = limits.bad_rows == "skip"

    def add(self, problem: Problem, counts: SplitCounts) -> None:
        """Keep or count one; raise `InputError` with all when there are enough."""
        if self._skips and not isinstance(problem, BrokenPart):
            counts.dropped["bad"] += 1
            if len(counts.bad_examples) < MAX_EXAMPLES:
                counts.bad_examples.append(str(problem))
            return
        self._found.append(problem)
        if len(self._found) == MAX_PROBLEMS:
            self._stop(problem.place, f"after {MAX_PROBLEMS} problems")

    def passed(self, row: Row | Problem) -> None:
        """Count a row; raise `InputError` where there was a problem long ago."""
        self._rows_after += bool(self._found)
        if self._rows_after > MAX_ROWS_AFTER:
            self._stop(row.place, f"{MAX_ROWS_AFTER} rows after the first problem")

    def _stop(self, place: str, why: str) -> NoReturn:
        raise InputError([*self._found, Problem(place, "", f"stopped here, {why}.")])

    def check(self) -> None:
        """Raise `InputError` with all that were found, if any."""
        if self._found:
            raise InputError(self._found)


def count_rows(parts: Sequence[Part]) -> int:
    """Rows that can be read; what can't be is reported when the rows are used."""
    return sum(1 for part in parts for row in part.rows() if isinstance(row, Row))


def label_names(parts: Sequence[Part], column: str) -> set[str]:
    """Distinct class names; bad labels are reported when the rows are used."""
    values = {
        row.values[column]
        for part in parts
        for row in part.rows()
        if isinstance(row, Row) and isinstance(row.values.get(column), str | int)
    }
    names = set()
    for value in values:
        try:
            names.add(name_of(value))
        except RowError:
            continue
    return names


def write_splits(
    folder: Path,
    parts: dict[Split, Sequence[Part]],
    held_out: Sequence[int],
    encoder: Encoder,
    limits: Limits,
    control_ids: frozenset[int],
) -> tuple[dict[Split, SplitCounts], dict[Split, CacheWriter]]:
    """Write `folder/train` and, where there are such rows, `folder/validation`.

    `held_out` are row numbers of the training parts (from 0) that go to validation. Raises
    `InputError` for bad rows, and for a split in which no row is left.
    """
    names: list[Split] = ["train"]
    if len(held_out) or parts.get("validation"):
        names.append("validation")
    counts = {name: SplitCounts() for name in names}
    problems = Problems(limits)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(CacheWriter(folder / name)) for name in names}
        rows = _rows(parts, frozenset(held_out))
        while batch := list(islice(rows, BATCH_ROWS)):
            encoded = iter(encoder([row.values for _, row in batch if isinstance(row, Row)]))
            for name, row in batch:
                problems.passed(row)
                # What ended a part is no row, though rows may be lost with it.
                counts[name].rows += not isinstance(row, BrokenPart)
                if isinstance(row, Problem):
                    problems.add(row, counts[name])
                    continue
                fault = _take(next(encoded), counts[name], writers[name], limits, control_ids)
                if fault is not None:
                    problems.add(Problem(row.place, "", fault), counts[name])
        problems.check()
        for name in names:
            if not len(writers[name]):
                raise InputError(_nothing_left(name, counts[name], parts.get(name, ())))
    return counts, writers


def _rows(
    parts: dict[Split, Sequence[Part]], held_out: frozenset[int]
) -> Iterator[tuple[Split, Row | Problem]]:
    for name, its_parts in parts.items():
        number = 0
        for part in its_parts:
            for row in part.rows():
                is_held_out = name == "train" and number in held_out
                yield ("validation" if is_held_out else name), row
                number += isinstance(row, Row)


def _take(
    item: Encoded | RowError,
    counts: SplitCounts,
    writer: CacheWriter,
    limits: Limits,
    control_ids: frozenset[int],
) -> str | None:
    """Write one row or count why not; return what is wrong with it, if it is."""
    if isinstance(item, RowError):
        return str(item)
    if not item.input_ids:
        counts.dropped["empty"] += 1
        return None
    row, excess = item, len(item.input_ids) - limits.max_seq_len
    if excess > 0:
        if limits.overlong == "error":
            return (
                f"{len(item.input_ids)} tokens, more than data.max_seq_len {limits.max_seq_len}. "
                "Raise it, or set data.overlong to truncate or drop."
            )
        if limits.overlong == "drop":
            counts.dropped["overlong"] += 1
            return None
        row = item.truncated(limits.max_seq_len)
    if not row.num_targets:
        counts.dropped["no_targets" if not item.num_targets else "no_targets_left"] += 1
        return None
    if excess > 0:
        counts.truncated += 1
        counts.cut_tokens += excess
    elif row.label < 0 and _last_target(row) not in control_ids:
        counts.without_end += 1
    first = row.input_ids[:2]
    counts.double_starts += len(first) == 2 and first[0] == first[1] and first[0] in control_ids
    counts.formats[row.format] += 1
    writer.append(row, content_digest(item.input_ids))
    return None


def _last_target(row: Encoded) -> int:
    pairs = zip(reversed(row.input_ids), reversed(row.loss_mask), strict=True)
    return next(token for token, is_target in pairs if is_target)


def _nothing_left(name: Split, counts: SplitCounts, parts: Sequence[Part]) -> Problem:
    where = ", ".join(part.name for part in parts) or "the held-out training rows"
    if not counts.rows:
        return Problem(where, f"data.{name}", "no rows at all.")
    reasons = {
        "bad": "can't be read or used",
        "empty": "have an empty text",
        "overlong": "are longer than data.max_seq_len",
        "no_targets": "have no token with loss (no assistant turn?)",
        "no_targets_left": "have their first token with loss beyond data.max_seq_len",
    }
    listed = "; ".join(f"{count} {reasons[reason]}" for reason, count in counts.dropped.items())
    cure = f"The first: {counts.bad_examples[0]}" if counts.bad_examples else ""
    message = f"none of the {counts.rows} rows can be used: {listed}."
    return Problem(where, f"data.{name}", message, cure)
