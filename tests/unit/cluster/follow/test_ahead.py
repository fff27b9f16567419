"""What comes next is what the loop will do: the same multiples, the same end."""

from __future__ import annotations

import pytest

from launcher.cluster.follow.ahead import Settings, next_event, steps_in_epoch

BOTH = Settings(evaluate_every=4, checkpoint_every=6, validates=True)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, "evaluation at step 4"),
        (4, "checkpoint at step 6"),
        (11, "evaluation and checkpoint at step 12"),
        (18, "end at step 20"),
        (20, None),
    ],
)
def test_next_event(step: int, expected: str | None) -> None:
    found = next_event(BOTH, step, 20, None, 0.5)
    assert (None if found is None else str(found)) == expected
    if found is not None:
        assert found.seconds == 0.5 * (found.step - step)


def test_intervals_are_epochs_where_none_is_given() -> None:
    settings = Settings(validates=False, global_batch_size=8)
    assert str(next_event(settings, 3, 100, 10, None)) == "checkpoint at step 10"
    assert str(next_event(settings, 3, 100, None, None)) == "end at step 100"


def test_steps_in_an_epoch() -> None:
    settings = Settings(global_batch_size=8)
    assert steps_in_epoch({"steps_per_epoch": 7}, {}, settings) == 7
    assert steps_in_epoch({}, {"train": {"used": 65}}, settings) == 9
    assert steps_in_epoch({}, {}, settings) is None


def test_settings_come_from_the_resolved_recipe_or_are_defaults() -> None:
    assert Settings.of({}) == Settings()
    found = Settings.of(
        {
            "evaluate": {"every_steps": 3},
            "data": {"validation": [], "validation_fraction": 0.1},
            "train": {"max_steps": 9},
            "early_stopping": {"monitor": "validation/accuracy"},
            "checkpoint": None,
        }
    )
    assert found == Settings(3, None, True, 9, monitor="validation/accuracy")
