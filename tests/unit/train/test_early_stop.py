"""Patience, minimal improvement, direction, NaN, overfitting and survival of the state."""

from __future__ import annotations

import json
import math

import pytest

from launcher.recipe.schema import EarlyStoppingSection
from launcher.train.early_stop import (
    EvaluationPoint,
    StopState,
    observe,
    overfitting_since,
    should_stop,
)


def feed(
    values: list[float],
    *,
    monitor: str = "validation/loss",
    train_losses: list[float] | None = None,
    **section: float,
) -> tuple[StopState, int | None]:
    """Feed one value an evaluation; return the state and the evaluation at which it stopped."""
    stopping = EarlyStoppingSection.model_validate({"monitor": monitor, **section})
    state = StopState()
    train_losses = train_losses or [1.0] * len(values)
    for number, (value, train_loss) in enumerate(zip(values, train_losses, strict=True), 1):
        # through JSON each time, as if every evaluation were followed by a restart
        state = StopState.from_state_dict(json.loads(json.dumps(state.state_dict())))
        observe(state, EvaluationPoint(number * 10, value, value, train_loss), monitor, stopping)
        if should_stop(state, stopping):
            return state, number
    return state, None


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "stopped_at", "best_step"),
    [
        ([5, 4, 3, 3, 3, 3], 3, 0.0, 6, 30),
        ([5, 4, 4.1, 3.9, 4.2, 4.3], 2, 0.0, 6, 40),
        ([5, 4.95, 4.9, 4.85], 3, 0.1, None, 40),
        ([5, 4.95, 4.91, 4.905], 3, 0.1, 4, 10),
        ([5, math.nan, math.nan], 2, 0.0, 3, 10),
        ([math.nan, 5], 2, 0.0, None, 20),
    ],
)
def test_patience(
    values: list[float],
    patience: int,
    min_delta: float,
    stopped_at: int | None,
    best_step: int,
) -> None:
    state, stopped = feed(values, patience=patience, min_delta=min_delta)
    assert (stopped, state.best_step) == (stopped_at, best_step)


def test_a_metric_of_predictions_that_are_not_numbers_is_never_the_best() -> None:
    """Argmax of NaN gives a class, and so an accuracy, which can look good."""
    state = StopState()
    for step, accuracy, loss in ((1, 0.5, 2.0), (2, 0.9, math.nan), (3, 0.8, math.inf)):
        point = EvaluationPoint(step, accuracy, loss, train_loss=1.0)
        assert observe(state, point, "validation/accuracy", None) == (step == 1)
    assert (state.best_step, state.best_value, state.without_improvement) == (1, 0.5, 2)


def test_evaluations_without_a_number_do_not_hide_overfitting() -> None:
    rising = [(3.0, 4.0), (2.0, 3.0), (2.1, 2.0), (math.nan, math.nan), (2.2, 1.0)]
    history = [
        EvaluationPoint(number * 10, loss, loss, train_loss)
        for number, (loss, train_loss) in enumerate(rising, start=1)
    ]
    assert overfitting_since(history, 2) == 20
    assert overfitting_since(history[:-1], 2) is None


def test_accuracy_is_better_when_higher() -> None:
    state, stopped = feed([0.5, 0.7, 0.6, 0.6], monitor="validation/accuracy", patience=2)
    assert (stopped, state.best_step, state.best_value) == (4, 20, 0.7)


def test_overfitting_needs_rising_validation_and_falling_training_loss() -> None:
    rising = [3.0, 2.0, 2.1, 2.2, 2.3]
    state, _ = feed(rising, train_losses=[3, 2, 1.5, 1.2, 1.0], patience=3)
    assert state.overfitting_since == 20
    state, _ = feed(rising, train_losses=[3, 2, 2.1, 2.2, 2.3], patience=3)
    assert state.overfitting_since is None  # both rise: it diverges
    state, _ = feed([3.0, 2.0, 2.1, 1.9, 2.3], train_losses=[3, 2, 1.5, 1.2, 1.0], patience=3)
    assert state.overfitting_since is None  # came back down within the window
