"""What a row is after tokenisation, and what can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoded:
    """One row as tokens, before truncation."""

    input_ids: list[int]
    loss_mask: list[bool]
    """True where the token itself is a target (causal-lm: predicted from the tokens before it)."""
    label: int = -1
    """Class index; -1 where the task has none."""


class RowError(Exception):
    """A row can't be used; the message says what was seen and what is needed."""
