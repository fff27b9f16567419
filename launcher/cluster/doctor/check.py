"""One thing that was looked at: what was found, whether that will do, and the cure if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "missing"]
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of `launcher doctor`."""

    name: str
    verdict: Verdict
    found: str
    """What is there, for people."""
    cure: str = ""
    """What to do about it; empty where it is well."""


def gibibytes(number: float) -> str:
    """Return bytes as GiB in words."""
    return f"{number / GIB:,.1f} GiB"
