"""After a step: says why its update was skipped, stops where it must, records its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from launcher.errors import NonFiniteError
from launcher.metrics.record import TrainRecord
from launcher.metrics.throughput import Throughput, peak_memory_bytes
from launcher.train.non_finite import NonFinite
from launcher.train.progress import Progress
from launcher.train.session import Session
from launcher.train.step import StepResult
from launcher.train.step_observer import StepObserver

MOST_IDS = 64
"""Sample ids that a message names; the event has all of them."""


class SkippedUpdates(StepObserver):
    """Counts the updates skipped for a number that is not finite, and says so for each."""

    def after_step(self, session: Session, progress: Progress, result: StepResult) -> None:
        """Warn of a skipped update.

        Raises:
            NonFiniteError: the recipe says to stop at the number, or there were too many in a row.
        """
        progress.count_skip(result.skipped)
        if result.non_finite is not None:
            _judge_skip(session, progress, result.non_finite)


def _judge_skip(session: Session, progress: Progress, found: NonFinite) -> None:
    """Say why the update was skipped, and stop where the recipe has it so."""
    train, in_a_row = session.recipe.train, progress.skipped_in_a_row
    what, lowers_scale = describe(found), _lowers_loss_scale(session, found)
    session.recorder.event(
        "warning",
        step=progress.step,
        message=f"update skipped: {what}{'; the loss scale is lowered' if lowers_scale else ''}",
        cause=found.cause,
        in_a_row=in_a_row,
        sample_ids=found.sample_ids,
        seen_by={str(rank): ids for rank, ids in found.seen.items()},
    )
    too_many = in_a_row > train.max_skipped_steps
    if not too_many and (train.non_finite == "skip" or lowers_scale):
        return
    ids = f"sample ids of the step: {some(found.sample_ids)}."
    if too_many:
        raise NonFiniteError(
            f"step {progress.step}: {what}; {ids} This is skipped update {in_a_row} in a row, and"
            f" train.max_skipped_steps is {train.max_skipped_steps}: nothing is being learned."
            f" {_cure(session)}"
        )
    raise NonFiniteError(
        f"step {progress.step}: {what}; {ids} No update was made: weights and newest checkpoint are"
        f" from before this step. {_cure(session)} With train.non_finite: skip such a step is"
        " skipped and the run goes on."
    )


def _lowers_loss_scale(session: Session, found: NonFinite) -> bool:
    """Return whether this is how a dynamic loss scale finds the largest that fits."""
    is_float16 = session.recipe.model.dtype == "float16"
    return is_float16 and found.cause == "gradient" and session.engine.dynamic_loss_scale()


def _cure(session: Session) -> str:
    other = ", or use model.dtype: bfloat16" if session.recipe.model.dtype == "float16" else ""
    return f"Look at these rows, lower train.learning_rate{other}."


def watch_evaluation(session: Session, step: int, metrics: Mapping[str, float]) -> None:
    """Say that an evaluation gave no number; it is never the best."""
    loss = metrics["validation/loss"]
    if not math.isfinite(loss):
        session.recorder.event(
            "warning",
            step=step,
            message=f"validation/loss is {loss}: the model's predictions are not finite. Such an"
            " evaluation is never the best.",
        )


def describe(found: NonFinite) -> str:
    """Say what was not finite, and where it was seen."""
    what = f"the loss is {found.loss}" if found.cause == "loss" else "the gradient is not finite"
    if not found.seen:
        return f"{what} (on no single rank)"
    ranks = [f"rank {rank} (sample ids {some(ids)})" for rank, ids in found.seen.items()]
    more = f" and {len(ranks) - 4} other ranks" if len(ranks) > 4 else ""
    return f"{what} on {', '.join(ranks[:4])}{more}"


def some(ids: Sequence[int]) -> str:
    """Return ids as a list, the first ones of a long one."""
    more = f" and {len(ids) - MOST_IDS} more (all in events.jsonl)" if len(ids) > MOST_IDS else ""
    return f"{list(ids[:MOST_IDS])}{more}"


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
