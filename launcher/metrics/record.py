"""What is recorded of a run: one type per kind of record, and the interface of those who write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class TrainRecord:
    """One optimizer step, or the mean over the steps since the last record where it says so."""

    step: int
    epoch: float
    """Passes over the training rows so far."""
    consumed_samples: int
    """Rows used so far by all ranks together."""
    consumed_tokens: int
    """Tokens used so far by all ranks together."""
    loss: float | None
    """Sum of the losses of all targets of the global batch divided by their number; None where
    the update was skipped, since a loss or gradient was not finite."""
    learning_rate: float
    """Rate that this step was taken with."""
    grad_norm: float | None
    """Global gradient norm before clipping; None where the update was skipped."""
    tokens_per_second: float
    """All ranks together, since the last record."""
    step_seconds: float
    """Mean wall-clock time of a step since the last record."""
    peak_memory_bytes: int
    """Highest memory in use so far on rank 0: of its GPU, or resident where there is none."""
    skipped_steps: int = 0
    """Steps so far whose update was skipped because a loss or gradient was not finite."""

    def to_json(self) -> dict[str, Any]:
        """Return the record under the names of `metrics.jsonl`."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "consumed_samples": self.consumed_samples,
            "consumed_tokens": self.consumed_tokens,
            "train/loss": self.loss,
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm,
            "tokens_per_second": self.tokens_per_second,
            "step_seconds": self.step_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "skipped_steps": self.skipped_steps,
        }


@dataclass(frozen=True)
class EvaluationRecord:
    """One pass over the validation rows, after optimizer step `step` (0: before training)."""

    step: int
    metrics: Mapping[str, float]
    """`validation/loss`, `validation/tokens` and the task's own, such as `validation/accuracy`."""

    def to_json(self) -> dict[str, Any]:
        """Return the record under the names of `metrics.jsonl`."""
        return {"step": self.step, **self.metrics}


@dataclass(frozen=True)
class Event:
    """Something that happened once: a start, a checkpoint, an early stop, a failure."""

    kind: str
    time: str
    """UTC, ISO 8601."""
    step: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to this kind."""

    def to_json(self) -> dict[str, Any]:
        """Return the event as a line of `events.jsonl`."""
        return {"kind": self.kind, "time": self.time, "step": self.step, **self.fields}


class MetricWriter(Protocol):
    """Where records go: a file, the console, wandb. Only rank 0 has any."""

    def train(self, record: TrainRecord) -> None:
        """Record an optimizer step."""

    def evaluation(self, record: EvaluationRecord) -> None:
        """Record an evaluation."""

    def event(self, event: Event) -> None:
        """Record something that happened once."""

    def sync(self) -> None:
        """Return once everything recorded would survive a loss of power, where that can be had."""

    def close(self) -> None:
        """Finish; nothing is recorded afterwards."""


def finite_json(value: Any) -> Any:
    """Return `value` with NaN and infinities as strings, which JSON has no numbers for."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return value


def encode(values: Mapping[str, Any]) -> str:
    """Return one line of strict JSON without its newline."""
    return json.dumps(finite_json(values), ensure_ascii=False, allow_nan=False)


def number(value: Any) -> float | None:
    """Return what `encode` wrote as a float again, or None if it is no number."""
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None
