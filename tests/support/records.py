"""Small recipes and records, as tests of what is recorded need them."""

from __future__ import annotations

from typing import Any

from launcher.metrics.record import EvaluationRecord, TrainRecord
from launcher.recipe.schema import Recipe


def recipe(**sections: Any) -> Recipe:
    """Return a small valid recipe; `sections` replace its own."""
    values: dict[str, Any] = {
        "run": {"name": "bot"},
        "model": {"path": "models/small", "task": "causal-lm"},
        "method": {"type": "full"},
        "data": {"train": [{"path": "train.jsonl"}]},
        "train": {"global_batch_size": 8, "micro_batch_size": 2, "max_steps": 20},
        "deepspeed": "zero2",
    }
    return Recipe.model_validate(values | sections)


def train_record(step: int, **values: Any) -> TrainRecord:
    """Return a plausible record of a step."""
    defaults: dict[str, Any] = {
        "epoch": step / 10,
        "consumed_samples": step * 8,
        "consumed_tokens": step * 1000,
        "loss": 4.0 / (1 + step),
        "learning_rate": 2e-5,
        "grad_norm": 1.5,
        "tokens_per_second": 12345.6,
        "step_seconds": 0.5,
        "peak_memory_bytes": 3 * 2**30,
    }
    return TrainRecord(step=step, **(defaults | values))


def evaluation_record(step: int, loss: float | None = None, **metrics: float) -> EvaluationRecord:
    """Return a plausible evaluation; `metrics` are given without their `validation/`."""
    values = {"loss": 4.5 / (1 + step) if loss is None else loss, "tokens": 4000.0, **metrics}
    return EvaluationRecord(step, {f"validation/{key}": value for key, value in values.items()})
