"""What a row is before and after tokenisation, where rows come from, and what can be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.errors import Problem


@dataclass(frozen=True)
class BrokenPart(Problem):
    """What ends the reading of a part: rows behind it are lost, so it is no row to be skipped."""


@dataclass(frozen=True)
class Row:
    """One row as it was read."""

    place: str
    """`file:line`, or the closest thing to it that the format has."""
    values: Mapping[str, Any]
    """Columns by name."""


@dataclass(frozen=True)
class Part:
    """One file, or one split of a data set."""

    name: str
    """As the user would name it."""
    rows: Callable[[], Iterator[Row | Problem]]
    """Reads from the start; a row that can't be read comes as a problem, and reading goes on.

    After a `BrokenPart` it does not.
    """
    digest: Callable[[], str]
    """Digest of the content, without parsing it."""


@dataclass(frozen=True)
class Encoded:
    """One row as tokens, before truncation."""

    input_ids: list[int]
    loss_mask: list[bool]
    """True where the token itself is a target (causal-lm: predicted from the tokens before it)."""
    label: int = -1
    """Class index; -1 where the task has none."""
    format: str = ""
    """Which columns the row was made of: `text`, `prompt`, `chat` or `label`."""
    tail: int = 0
    """Trailing tokens that truncation keeps, such as the `[SEP]` that closes an encoder's input."""

    @property
    def num_targets(self) -> int:
        """Predictions that have loss: 1 for a class, else the targets after the first token."""
        if self.label >= 0:
            return 1
        return sum(self.loss_mask[1:])

    def truncated(self, length: int) -> Encoded:
        """Cut on the right to at most `length` tokens, keeping `tail`."""
        if len(self.input_ids) <= length:
            return self
        head, tail = length - self.tail, len(self.input_ids) - self.tail
        return Encoded(
            self.input_ids[:head] + self.input_ids[tail:],
            self.loss_mask[:head] + self.loss_mask[tail:],
            self.label,
            self.format,
            self.tail,
        )


class RowError(Exception):
    """A row can't be used; the message says what was seen and what is needed."""


Encoder = Callable[[Sequence[Mapping[str, Any]]], list[Encoded | RowError]]
"""Turns a batch of rows into tokens, in order; a bad row gives its error instead of raising it."""
