"""Validation: every row exactly once over all ranks, weighted by its targets, no logits kept."""

from __future__ import annotations

import math

import torch

from launcher.data.sampler import evaluation_batches
from launcher.train.agree import sum_over_ranks
from launcher.train.session import Session
from launcher.train.stopping import agree_to_stop


@torch.no_grad()
def evaluate(session: Session) -> dict[str, float] | None:
    """Return `validation/loss`, `validation/tokens` and the task's metrics; None without rows.

    A stop is agreed on between two batches, and what was measured until then is forgotten: the
    resumed run evaluates this step again.

    All ranks run the same number of forward passes (filler rows make up the rest), since a ZeRO-3
    forward pass is a collective. Sums are float64, so that the batch size leaves no trace.
    """
    cache = session.prepared.validation
    if cache is None:
        return None
    recipe, world = session.recipe, session.world
    micro_batch_size = recipe.evaluate.micro_batch_size or recipe.train.micro_batch_size
    total = None
    session.engine.eval()
    for ids in evaluation_batches(cache.lengths, micro_batch_size, world.rank, world.world_size):
        session.heartbeat.at("evaluate")
        agree_to_stop(session)
        batch = session.batch(cache, ids)
        statistics = session.task.forward(session.engine, batch).statistics
        total = statistics if total is None else total + statistics
    assert total is not None, "a prepared validation set has rows"
    metrics = session.task.summarise(sum_over_ranks(total, session.device))
    if not math.isfinite(metrics["loss"]):
        # Where the predictions are not numbers, what was counted of them says nothing.
        metrics = {k: v if k in ("loss", "tokens") else math.nan for k, v in metrics.items()}
    return {f"validation/{name}": value for name, value in metrics.items()}
