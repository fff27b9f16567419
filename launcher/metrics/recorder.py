"""One place to record to: hands every record to the file, the console and wandb, on rank 0 only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console

from launcher.errors import Stopped, TrainingError
from launcher.metrics.console import ConsoleWriter
from launcher.metrics.jsonl import JsonlWriter
from launcher.metrics.record import EvaluationRecord, Event, MetricWriter, TrainRecord
from launcher.metrics.wandb import WandbWriter
from launcher.recipe.schema import Recipe
from launcher.run_dir import RunDir
from launcher.streams import lenient


class Recorder:
    """Records of one rank; without writers (all ranks but 0) every call does nothing."""

    def __init__(self, writers: Sequence[MetricWriter] = (), *, step: int = 0) -> None:
        self._writers = list(writers)
        self._step = step

    def add(self, writer: MetricWriter) -> None:
        """Record to one more place from now on."""
        self._writers.append(writer)

    def train(self, record: TrainRecord) -> None:
        """Record an optimizer step."""
        self._step = record.step
        for writer in self._writers:
            writer.train(record)

    def evaluation(self, record: EvaluationRecord) -> None:
        """Record an evaluation."""
        self._step = record.step
        for writer in self._writers:
            writer.evaluation(record)

    def event(self, kind: str, **fields: Any) -> None:
        """Record what happened now; at the step of the last record unless `step` is given."""
        step = int(fields.pop("step", self._step))
        event = Event(kind, _now(), step, fields)
        for writer in self._writers:
            writer.event(event)

    def sync(self) -> None:
        """Make everything recorded so far durable; call it before committing a checkpoint."""
        for writer in self._writers:
            writer.sync()

    def close(self) -> None:
        """Finish all writers; takes a few seconds at most, and is harmless when called twice."""
        # In reverse: wandb may still report trouble as an event, which the file must take.
        for writer in reversed(self._writers):
            writer.close()
        self._writers = []

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Stopped):
            self.close()
            return
        # Where records can't be written, what led here says more than that.
        with contextlib.suppress(TrainingError):
            self.event("failure", error=type(error).__name__, message=str(error))
            self.close()


def open_recorder(
    run_dir: RunDir,
    recipe: Recipe,
    *,
    resume_step: int,
    total_steps: int,
    wandb_run_id: str,
    has_wandb_key: bool,
    is_main_process: bool = True,
    terminal: TextIO | None = None,
) -> Recorder:
    """Open the records of a run at `resume_step` (0: a new one), cutting what lies after it.

    `wandb_run_id` is kept in the run folder, so that all restarts are one wandb run. `terminal` is
    where progress is shown; standard output if absent.
    """
    if not is_main_process:
        return Recorder()
    jsonl = JsonlWriter(run_dir, resume_step=resume_step)
    recorder = Recorder([jsonl], step=resume_step)

    def say_console_is_gone(reason: str) -> None:
        where = f"{run_dir.metrics.name} and {run_dir.events.name}"
        message = f"progress is no longer shown ({reason}); training goes on, recorded in {where}"
        recorder.event("warning", message=message)

    file = lenient(terminal or sys.stdout, say_console_is_gone)
    screen = Console(file=file, highlight=False)
    recorder.add(ConsoleWriter(recipe.run.name, total_steps=total_steps, console=screen))
    for note in jsonl.notes:
        recorder.event("warning", message=note)
    if recipe.logging.wandb is not None and recipe.logging.wandb.mode != "disabled":
        recorder.add(
            WandbWriter(
                run_dir,
                recipe,
                run_id=wandb_run_id,
                has_key=has_wandb_key,
                resume_step=resume_step,
                on_trouble=lambda message: recorder.event("warning", message=message),
            )
        )
    return recorder


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
