"""What is shown: the same figures on a terminal and in a log, and events in words."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from launcher.metrics.console import ConsoleWriter, duration, sentence
from launcher.metrics.record import EvaluationRecord, Event
from tests.support.records import evaluation_record, train_record


def writer(
    *, is_terminal: bool, clock: Callable[[], float] = lambda: 0.0
) -> tuple[ConsoleWriter, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=140, highlight=False)
    return ConsoleWriter("bot", total_steps=20, console=console, clock=clock), out


def test_a_log_gets_one_line_a_record_with_all_figures() -> None:
    shown, out = writer(is_terminal=False)
    shown.train(train_record(5, loss=1.25))
    evaluation = EvaluationRecord(5, {"validation/loss": 1.5, "validation/accuracy": 0.75})
    shown.evaluation(evaluation)
    shown.event(Event("checkpoint", "t", 5, {"path": "checkpoints/step-000005"}))
    shown.close()
    assert out.getvalue().splitlines() == [
        "bot | step 5/20 (25%) | ETA 0:00:08 | loss 1.2500 | lr 2.00e-05 | 12,346 tok/s | 3.00 GiB",
        "bot | evaluation at step 5: validation/loss 1.5000, validation/accuracy 0.7500",
        "bot | checkpoint at step 5: path checkpoints/step-000005",
    ]


def test_a_failure_is_left_to_whoever_knows_its_cause() -> None:
    """Rank 0 may only have lost its peer; the launch says which rank was the first."""
    shown, out = writer(is_terminal=False)
    shown.event(Event("failure", "t", 5, {"message": "Connection reset by peer"}))
    shown.close()
    assert out.getvalue() == ""


def test_a_terminal_gets_a_display_with_the_same_figures() -> None:
    shown, out = writer(is_terminal=True)
    shown.train(train_record(5, loss=1.25))
    shown.evaluation(evaluation_record(5))
    shown.close()
    text = out.getvalue()
    assert "\x1b[" in text
    for figure in ("bot", "5/20", "0:00:08", "1.2500", "2.00e-05", "12,346 tok/s", "3.00 GiB"):
        assert figure in text
    assert "evaluation at step 5" in text


def test_the_time_left_is_measured_on_the_clock() -> None:
    now = [0.0]
    shown, out = writer(is_terminal=False, clock=lambda: now[0])
    shown.train(train_record(8))  # resumed: the first record starts the clock
    now[0] = 40.0  # two steps and an evaluation
    shown.train(train_record(10))
    assert "ETA 0:03:20" in out.getvalue().splitlines()[-1]  # 10 steps to go at 20 s each


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-:--:--"),
        (0.0, "0:00:00"),
        (59.6, "0:01:00"),
        (90061.0, "25:01:01"),
        (-3, "0:00:00"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_overfitting_is_said_with_its_step() -> None:
    event = Event("overfitting", "t", 120, {"since_step": 80})
    assert sentence(event) == "overfitting since step 80 (seen at step 120)"


def test_brackets_of_the_user_are_text_not_markup() -> None:
    shown, out = writer(is_terminal=False)
    shown.event(Event("warning", "t", 3, {"message": "row [bold] has [/] no label"}))
    assert "warning at step 3: row [bold] has [/] no label" in out.getvalue()


def test_a_loss_that_is_no_number_is_shown_as_such() -> None:
    shown, out = writer(is_terminal=False)
    shown.train(train_record(5, loss=float("nan")))
    assert "loss nan" in out.getvalue()


def test_a_skipped_update_is_shown_as_such() -> None:
    shown, out = writer(is_terminal=False)
    shown.train(train_record(5, loss=None, grad_norm=None))
    assert "| no update | lr 2.00e-05 |" in out.getvalue()


def test_small_figures_keep_their_digits() -> None:
    event = Event("export", "t", 9, {"difference": 2.1e-7, "none": 0.0, "share": 0.25, "n": 2.0e6})
    assert sentence(event) == (
        "export at step 9: difference 2.1e-07, none 0.0000, share 0.2500, n 2,000,000"
    )
