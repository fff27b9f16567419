"""The training loop: one screen, top to bottom."""

from __future__ import annotations

import math
import time

from launcher.errors import TrainingError
from launcher.metrics.record import EvaluationRecord, TrainRecord
from launcher.metrics.throughput import Throughput, peak_memory_bytes
from launcher.train.agree import values_of_main
from launcher.train.early_stop import EvaluationPoint, observe, should_stop, why_stopped
from launcher.train.evaluate import evaluate
from launcher.train.gradient_audit import GradientAudit
from launcher.train.optim import set_learning_rate
from launcher.train.progress import Progress
from launcher.train.save import save_checkpoint
from launcher.train.schedule import learning_rate_at
from launcher.train.session import Session
from launcher.train.step import StepResult, train_step

MAX_SKIPPED_IN_A_ROW = 20


def train(session: Session, progress: Progress, audit: GradientAudit) -> str:
    """Train from `progress` to the end; return the outcome, `finished` or `early_stopped`."""
    started, earlier = time.monotonic(), progress.seconds
    if progress.evaluated_step < 0:
        evaluate_and_record(session, progress)
    throughput = Throughput()
    while progress.step < session.plan.total_steps:
        if should_stop(progress.stop, session.recipe.early_stopping):
            session.recorder.event("early_stop", step=progress.step, **why_stopped(progress.stop))
            return "early_stopped"
        learning_rate = learning_rate_at(
            session.recipe.train,
            progress.step,
            warmup_steps=session.plan.warmup_steps,
            total_steps=session.plan.total_steps,
        )
        set_learning_rate(session.engine.optimizer.param_groups, learning_rate)
        window = session.windows.window(progress.step)
        result = train_step(session, window)
        progress.advance(
            window.consumed_samples, result.num_tokens, result.loss_sum, result.num_targets
        )
        watch_step(session, progress, result, audit)
        throughput.step(result.num_tokens)
        if progress.step % session.recipe.logging.every_steps == 0:
            record_step(session, progress, result, learning_rate, throughput)
        progress.seconds = earlier + time.monotonic() - started
        with throughput.paused():
            close_step(session, progress)
    return "finished"


def close_step(session: Session, progress: Progress) -> None:
    """After an update: evaluate and save where the recipe says so, or where there is a new best."""
    recipe, best_before = session.recipe, progress.stop.best_step
    if is_due(session, progress, recipe.evaluate.every_steps):
        evaluate_and_record(session, progress)
    is_best = progress.stop.best_step != best_before and recipe.checkpoint.keep_best
    ends = should_stop(progress.stop, recipe.early_stopping)
    if is_best or ends or is_due(session, progress, recipe.checkpoint.every_steps):
        save_checkpoint(session, progress)


def is_due(session: Session, progress: Progress, every_steps: int | None) -> bool:
    """Return whether something with this interval (absent: each epoch) happens after this step."""
    interval = every_steps or session.plan.steps_per_epoch
    return progress.step % interval == 0 or progress.step == session.plan.total_steps


def evaluate_and_record(session: Session, progress: Progress) -> None:
    """Measure the validation rows; decide on best, patience and overfitting, and say so.

    Rank 0's numbers are everybody's, so that the ranks can't decide differently.
    """
    metrics = evaluate(session)
    progress.evaluated_step = progress.step
    if metrics is None:
        return
    metrics = values_of_main(metrics, session.device)
    session.recorder.evaluation(EvaluationRecord(progress.step, metrics))
    train_loss = progress.take_train_loss()
    if train_loss is None:  # the untrained model: a base line, never the best
        progress.first_evaluation = progress.last_evaluation = metrics
        return
    was_overfitting = progress.stop.overfitting_since is not None
    point = EvaluationPoint(
        progress.step, metrics[session.monitor], metrics["validation/loss"], train_loss
    )
    is_best = observe(progress.stop, point, session.monitor, session.recipe.early_stopping)
    progress.last_evaluation = metrics
    if is_best:
        progress.best_evaluation = metrics
        session.recorder.event("evaluation_best", step=progress.step, **metrics)
    if progress.stop.overfitting_since is not None and not was_overfitting:
        session.recorder.event(
            "overfitting", step=progress.step, since_step=progress.stop.overfitting_since
        )


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
