"""The training loop: one screen, top to bottom."""

from __future__ import annotations

import time

from launcher.metrics.record import EvaluationRecord
from launcher.metrics.throughput import Throughput
from launcher.train.agree import values_of_main
from launcher.train.early_stop import EvaluationPoint, observe, should_stop, why_stopped
from launcher.train.evaluate import evaluate
from launcher.train.gradient_audit import GradientAudit
from launcher.train.optim import set_learning_rate
from launcher.train.progress import Progress
from launcher.train.save import save_checkpoint
from launcher.train.schedule import learning_rate_at
from launcher.train.session import Session
from launcher.train.step import train_step
from launcher.train.watch_step import record_step, watch_step


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
