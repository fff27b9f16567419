"""Medians of paired ratios, with an interval that says how far the pairs agree."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
SEED = 20
PERCENT = (2.5, 97.5)


@dataclass(frozen=True)
class Ratio:
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{_three_digits(self.median)} ({_three_digits(self.low)}-{_three_digits(self.high)})"
        )


def paired_ratio(values: Sequence[float], floors: Sequence[float]) -> Ratio:
    """Return the median of value / floor, pair by pair; pairs are resampled, never torn apart."""
    ratios = np.array([value / floor for value, floor in zip(values, floors, strict=True)])
    picks = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), PERCENT)
    return Ratio(float(statistics.median(ratios)), float(low), float(high))


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
