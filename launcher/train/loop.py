"""The training loop: one screen, top to bottom."""

from __future__ import annotations

import time

from launcher.errors import NonFiniteError, Stopped
from launcher.metrics.record import EvaluationRecord
from launcher.metrics.throughput import Throughput
from launcher.train.agree import values_of_main
from launcher.train.early_stop import EvaluationPoint, observe, should_stop, why_stopped
from launcher.train.evaluate import evaluate
from launcher.train.gradient_audit import GradientAudit
from launcher.train.optim import set_learning_rate
from launcher.train.progress import Progress
from launcher.train.saver import Saver
from launcher.train.schedule import learning_rate_at
from launcher.train.session import Session
from launcher.train.step import train_step
from launcher.train.step_observer import StepObserver
from launcher.train.stopping import StopAgreed, agree_to_stop
from launcher.train.straggler import Stragglers
from launcher.train.timings import Timings
from launcher.train.watch_step import SkippedUpdates, record_step, watch_evaluation


def train(session: Session, progress: Progress) -> str:
    """Train from `progress` to the end; return the outcome, `finished` or `early_stopped`.

    Raises:
        Stopped: all ranks agreed to stop; the state of the last whole step is saved.
    """
    timings = Timings()
    saver = Saver(session, progress.step, timings)
    try:
        outcome = run_steps(session, progress, saver, timings)
        agree_to_stop(session, saver)
        return outcome
    except StopAgreed as stop:
        session.recorder.event("stop", step=progress.step, reason=stop.reason.text)
        if progress.step > 0:
            saver.require(progress)
        raise Stopped(progress.step, stop.reason.text) from None
    except NonFiniteError:
        # All ranks come here together: what is being written is worth having.
        saver.drain(session.recipe.run.timeout_seconds)
        raise


def run_steps(session: Session, progress: Progress, saver: Saver, timings: Timings) -> str:
    """Go from step to step until there is none left, or patience has run out."""
    started, earlier = time.monotonic(), progress.seconds
    if progress.evaluated_step < 0:
        evaluate_and_record(session, progress)
    throughput, observers = Throughput(), observers_of(session)
    while True:
        with throughput.paused():
            close_step(session, progress, saver)
        if should_stop(progress.stop, session.recipe.early_stopping):
            saver.require(progress)
            session.recorder.event("early_stop", step=progress.step, **why_stopped(progress.stop))
            return "early_stopped"
        if progress.step == session.plan.total_steps:
            saver.require(progress)
            return "finished"
        agree_to_stop(session, saver)
        step_began = time.monotonic()
        learning_rate = learning_rate_at(
            session.recipe.train,
            progress.step,
            warmup_steps=session.plan.warmup_steps,
            total_steps=session.plan.total_steps,
        )
        set_learning_rate(session.engine.optimizer.param_groups, learning_rate)
        window = session.windows.window(progress.step)
        for observer in observers:
            observer.before_step(session, window)
        result = train_step(session, window)
        progress.advance(
            window.consumed_samples, result.num_tokens, result.loss_sum, result.num_targets
        )
        for observer in observers:
            observer.after_step(session, progress, result)
        throughput.step(result.num_tokens)
        if progress.step % session.recipe.logging.every_steps == 0:
            record_step(session, progress, result, learning_rate, throughput)
        progress.seconds = earlier + time.monotonic() - started
        timings.step(time.monotonic() - step_began)
        session.heartbeat.reserve_seconds = timings.reserve_seconds


def observers_of(session: Session) -> tuple[StepObserver, ...]:
    """Return the observers of a step: the session's first, to see a step that a check ends."""
    return (
        *session.observers,
        SkippedUpdates(),
        GradientAudit(session.engine.module),
        Stragglers(session),
    )


def close_step(session: Session, progress: Progress, saver: Saver) -> None:
    """After an update: evaluate and save where the recipe says so, or where there is a new best.

    A run that stopped between the two finds here what is still to do when it is resumed.
    """
    recipe, best_before = session.recipe, progress.stop.best_step
    if progress.step == 0:
        return
    if progress.evaluated_step != progress.step and is_due(
        session, progress, recipe.evaluate.every_steps
    ):
        evaluate_and_record(session, progress)
    is_best = progress.stop.best_step != best_before and recipe.checkpoint.keep_best
    ends = should_stop(progress.stop, recipe.early_stopping)
    due = ends or is_due(session, progress, recipe.checkpoint.every_steps)
    if is_best or (due and saver.committed_step != progress.step):
        saver.save(progress)


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
    watch_evaluation(session, progress.step, metrics)
    train_loss = progress.take_train_loss()
    if progress.step == 0:  # the untrained model: a base line, never the best
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
