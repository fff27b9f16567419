"""What a person watching sees: a progress display on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from launcher.escape import for_terminal
from launcher.metrics.record import EvaluationRecord, Event, TrainRecord


class ConsoleWriter:
    """Shows step, time left, loss, rate, tokens per second and memory.

    The time left is measured on the clock since this process began, so that evaluations and
    checkpoints count.
    """

    def __init__(
        self,
        name: str,
        *,
        total_steps: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._total_steps = total_steps
        self._first_step = 0
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._started: float | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def train(self, record: TrainRecord) -> None:
        """Advance the display, or print one line."""
        left = self._seconds_left(record)
        if not self._console.is_terminal:
            share = f"{record.step / max(1, self._total_steps):.0%}"
            head = f"step {record.step}/{self._total_steps} ({share})"
            self._print(" | ".join((head, f"ETA {duration(left)}", *figures(record))))
            return
        progress, task = self._display()
        shown = " · ".join((f"ETA {duration(left)}", *figures(record)))
        progress.update(task, completed=record.step, figures=shown, refresh=True)

    def evaluation(self, record: EvaluationRecord) -> None:
        """Print all metrics of an evaluation on a line."""
        metrics = ", ".join(f"{key} {_figure(value)}" for key, value in record.metrics.items())
        self._print(f"evaluation at step {record.step}: {metrics}")

    def event(self, event: Event) -> None:
        """Print an event on a line; a failure is said once, by whoever knows which rank's it is."""
        if event.kind != "failure":
            self._print(sentence(event))

    def sync(self) -> None:
        """Nothing shown is kept."""

    def close(self) -> None:
        """Leave the last state of the display on the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _seconds_left(self, record: TrainRecord) -> float | None:
        # The first record only starts the clock: what came before it is loading and compiling.
        if self._started is None:
            self._started, self._first_step = self._clock(), record.step
        done = record.step - self._first_step
        if done <= 0:
            return record.step_seconds * (self._total_steps - record.step) or None
        seconds_per_step = (self._clock() - self._started) / done
        return seconds_per_step * (self._total_steps - record.step)

    def _display(self) -> tuple[Progress, TaskID]:
        if self._progress is None or self._task is None:
            self._progress = Progress(
                TextColumn("[bold]{task.description}", markup=True),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[figures]}", markup=False),
                console=self._console,
                auto_refresh=False,  # a record is the only thing that changes what is shown
            )
            self._progress.start()
            self._task = self._progress.add_task(self._name, total=self._total_steps, figures="")
        return self._progress, self._task

    def _print(self, text: str) -> None:
        # markup off: names and messages are the user's and may hold brackets.
        shown = for_terminal(f"{self._name} | {text}")
        self._console.print(shown, markup=False, soft_wrap=True)


def figures(record: TrainRecord) -> tuple[str, ...]:
    """Return loss, learning rate, speed and memory as short texts, in this order."""
    return (
        "no update" if record.loss is None else f"loss {record.loss:.4f}",
        f"lr {record.learning_rate:.2e}",
        f"{record.tokens_per_second:,.0f} tok/s",
        f"{record.peak_memory_bytes / 2**30:.2f} GiB",
    )


def duration(seconds: float | None) -> str:
    """Return `h:mm:ss`, or dashes where nothing is known yet."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--:--"
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def sentence(event: Event) -> str:
    """Say an event in words: its kind, its step, and its message or fields."""
    kind = event.kind.replace("_", " ")
    fields: Mapping[str, Any] = event.fields
    if event.kind == "overfitting" and "since_step" in fields:
        return f"overfitting since step {fields['since_step']} (seen at step {event.step})"
    if "message" in fields:
        return f"{kind} at step {event.step}: {fields['message']}"
    detail = ", ".join(f"{key} {_figure(value)}" for key, value in fields.items())
    return f"{kind} at step {event.step}" + (f": {detail}" if detail else "")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        if value.is_integer() and abs(value) >= 10:
            return f"{value:,.0f}"
        return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
