"""When to stop: no improvement for `patience` evaluations, and whether that was overfitting."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from launcher.recipe.schema import EarlyStoppingSection

HIGHER_IS_BETTER = frozenset({"validation/accuracy", "validation/f1"})
DEFAULT_PATIENCE = 3


@dataclass(frozen=True)
class EvaluationPoint:
    """One evaluation: the step it followed, what was monitored and both losses then."""

    step: int
    monitored: float
    validation_loss: float
    train_loss: float
    """Mean training loss per target since the evaluation before; NaN if all was skipped."""


@dataclass
class StopState:
    """What has been seen so far; a plain value that lives in the checkpoint."""

    best_step: int | None = None
    best_value: float | None = None
    without_improvement: int = 0
    overfitting_since: int | None = None
    history: list[EvaluationPoint] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> StopState:
        """Rebuild the state that `state_dict` gave."""
        history = [EvaluationPoint(**point) for point in state["history"]]
        return cls(**{**state, "history": history})


def improved(state: StopState, monitor: str, value: float, min_delta: float) -> bool:
    """Return whether `value` beats the best so far by more than `min_delta`; NaN never does."""
    if not math.isfinite(value):
        return False
    if state.best_value is None:
        return True
    gain = value - state.best_value if monitor in HIGHER_IS_BETTER else state.best_value - value
    return gain > min_delta


def observe(
    state: StopState, point: EvaluationPoint, monitor: str, stopping: EarlyStoppingSection | None
) -> bool:
    """Add one evaluation to the state; return whether it is the best so far."""
    # Predictions that are not numbers have an accuracy all the same: of whatever argmax gives.
    better = math.isfinite(point.validation_loss) and improved(
        state, monitor, point.monitored, stopping.min_delta if stopping else 0.0
    )
    if better:
        state.best_step, state.best_value = point.step, point.monitored
        state.without_improvement = 0
    else:
        state.without_improvement += 1
    state.history.append(point)
    patience = stopping.patience if stopping else DEFAULT_PATIENCE
    state.overfitting_since = overfitting_since(state.history, patience)
    return better


def should_stop(state: StopState, stopping: EarlyStoppingSection | None) -> bool:
    """Return whether patience has run out."""
    return stopping is not None and state.without_improvement >= stopping.patience


def why_stopped(state: StopState) -> dict[str, Any]:
    """Return what the event of an early stop says."""
    return {
        "best_step": state.best_step,
        "best_value": state.best_value,
        "evaluations_without_improvement": state.without_improvement,
    }


def overfitting_since(history: list[EvaluationPoint], patience: int) -> int | None:
    """Return the step from which on the model overfits, or None.

    Overfitting: over the last `patience` evaluations validation loss rose while training loss fell,
    and validation loss has not been as low as before the window since. It began where validation
    loss was lowest. Evaluations whose loss is not finite tell nothing here.
    """
    history = [point for point in history if math.isfinite(point.validation_loss)]
    if len(history) <= patience:
        return None
    before, window = history[-1 - patience], history[-patience:]
    rises = min(point.validation_loss for point in window) > before.validation_loss
    if rises and window[-1].train_loss < before.train_loss:
        return min(history, key=lambda point: point.validation_loss).step
    return None
