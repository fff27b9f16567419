"""After an update: says what went wrong in it, stops where it must, records its figures."""

from __future__ import annotations

import math

from launcher.errors import TrainingError
from launcher.metrics.record import TrainRecord
from launcher.metrics.throughput import Throughput, peak_memory_bytes
from launcher.train.gradient_audit import GradientAudit
from launcher.train.progress import Progress
from launcher.train.session import Session
from launcher.train.step import StepResult

MAX_SKIPPED_IN_A_ROW = 20


def watch_step(
    session: Session, progress: Progress, result: StepResult, audit: GradientAudit
) -> None:
    """Let no silent wrong pass: missing gradients, skipped updates, a norm that is not finite.

    Raises:
        TrainingError: training can't be going on as asked.
    """
    if audit.active:
        strict = session.recipe.train.zero_gradients == "error"
        missing = audit.judge(progress.step, session.device, strict=strict)
        if missing:
            session.recorder.event(
                "warning", step=progress.step, message="no gradient", tensors=missing
            )
    progress.count_skip(result.skipped)
    if result.skipped:
        session.recorder.event(
            "warning", step=progress.step, message="update skipped: a gradient overflowed"
        )
    elif not math.isfinite(result.grad_norm):
        raise TrainingError(
            f"step {progress.step}: the gradient norm is {result.grad_norm}. Look at the rows of"
            " this step, or lower train.learning_rate."
        )
    if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise TrainingError(
            f"step {progress.step}: the last {MAX_SKIPPED_IN_A_ROW} updates were skipped because"
            " gradients overflowed; nothing is being learned. Use model.dtype: bfloat16."
        )


def record_step(
    session: Session,
    progress: Progress,
    result: StepResult,
    learning_rate: float,
    throughput: Throughput,
) -> None:
    """Hand the figures of this step to the records."""
    rates = throughput.lap()
    session.recorder.train(
        TrainRecord(
            step=progress.step,
            epoch=progress.consumed_samples / session.plan.num_samples,
            consumed_samples=progress.consumed_samples,
            consumed_tokens=progress.consumed_tokens,
            loss=result.loss,
            learning_rate=learning_rate,
            grad_norm=result.grad_norm,
            tokens_per_second=rates.tokens_per_second,
            step_seconds=rates.step_seconds,
            peak_memory_bytes=peak_memory_bytes(session.device),
            skipped_steps=progress.skipped_steps,
        )
    )
