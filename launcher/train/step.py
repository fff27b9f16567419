"""One optimizer step: the micro-batches of a window, exactly normalised, and the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from launcher.data.sampler import Window, micro_batches
from launcher.errors import NonFiniteError
from launcher.train.agree import sum_over_ranks
from launcher.train.engine import gradient_norm
from launcher.train.local_work import LocalWork
from launcher.train.non_finite import NonFinite
from launcher.train.session import Session

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step gave; equal on all ranks, but for `work`."""

    loss_sum: float
    """Sum of the losses of all targets of the window; 0 where the update was skipped."""
    num_targets: int
    """Targets behind `loss_sum`; 0 where the update was skipped."""
    num_tokens: int
    """Real tokens of the window, without padding."""
    grad_norm: float | None
    """Before clipping; None where the update was skipped."""
    non_finite: NonFinite | None
    """Why the weights were left as they were; None where they were updated."""
    work: LocalWork
    """What this rank did by itself."""

    @property
    def loss(self) -> float | None:
        """Loss per target; None where the update was skipped."""
        return self.loss_sum / self.num_targets if self.num_targets else None

    @property
    def skipped(self) -> bool:
        """True where the engine left weights and optimizer alone."""
        return self.non_finite is not None


def train_step(session: Session, window: Window) -> StepResult:
    """Run the micro-batches of `window`, average over its targets and update the weights.

    The gradient wanted is that of (sum of all losses) / (number of targets in the window).
    DeepSpeed averages gradients over ranks and, with `scale_wrt_gas=False`, divides by nothing
    else: so every micro-batch's summed loss is multiplied by world_size / targets. The number of
    targets is known from the prepared data, without communication, and is right for a short last
    window too.

    A loss or gradient that is not finite on any rank skips the update on all.

    Raises:
        NonFiniteError: the engine updated the weights in spite of it.
    """
    engine, train, world = session.engine, session.prepared.train, session.world
    num_targets = int(train.num_targets[window.sample_ids].sum())
    num_tokens = int(train.lengths[window.sample_ids].sum())
    scale = world.world_size / num_targets
    engine.train()  # a model is loaded in eval mode, and evaluation leaves it so
    seed_step(session.recipe.run.seed, window.step, world.rank)
    # Stays on the device until the step is over: reading it would wait for every micro-batch.
    loss_sum = torch.zeros((), dtype=torch.float64, device=session.device)
    batches = micro_batches(
        window.sample_ids, session.recipe.train.micro_batch_size, world.rank, world.world_size
    )
    session.work.start()
    session.numbers.start(len(batches))
    for micro_step, ids in enumerate(batches):
        session.heartbeat.at("train", step=window.step + 1, micro_step=micro_step)
        last = micro_step == len(batches) - 1
        engine.set_gradient_accumulation_boundary(last)
        with session.work.collation():
            rows = session.collate(train, ids)
        batch = session.to_device(rows)
        with session.work.forward(rows["input_ids"].numel()):
            output = session.task.forward(engine, batch)
        loss = session.numbers.loss(micro_step, output.loss_sum)
        engine.backward(loss * scale, scale_wrt_gas=False)
        loss_sum += output.loss_sum.detach()
        if not last:
            engine.step()
    total = sum_over_ranks(loss_sum, session.device).item()
    grad_norm, skipped = _update(session)
    work = session.work.take()
    if skipped:
        found = session.numbers.find(
            window,
            total,
            micro_batch_size=session.recipe.train.micro_batch_size,
            world_size=world.world_size,
        )
        return StepResult(0.0, 0, num_tokens, None, found, work)
    if not (math.isfinite(total) and math.isfinite(grad_norm)):
        raise NonFiniteError(
            f"step {window.step + 1}: the loss is {total} and the gradient norm {grad_norm}, and"
            " the engine updated the weights all the same. The newest checkpoint is from before;"
            f" rows of this step: {window.sample_ids.tolist()}."
        )
    return StepResult(total, num_targets, num_tokens, grad_norm, None, work)


def _update(session: Session) -> tuple[float, bool]:
    """Step the engine; return the gradient norm before clipping and whether it was skipped."""
    engine = session.engine
    own_norm = _plain_gradient_norm(session)
    skipped_before = engine.skipped_steps
    if own_norm is not None and not math.isfinite(own_norm):
        _skip_plain_step(engine)
    else:
        engine.step()
    norm = own_norm if own_norm is not None else gradient_norm(engine)
    return norm, engine.skipped_steps > skipped_before


def _skip_plain_step(engine: DeepSpeedEngine) -> None:
    """Skip an update where DeepSpeed has no wrapper that would (stage 0 in float32)."""
    engine.zero_grad()
    engine.set_gradient_accumulation_boundary(False)
    engine.step()  # counts the micro-batch and leaves the rest alone
    engine.global_steps += 1
    engine.global_samples += engine.train_batch_size()
    engine.skipped_steps += 1


def _plain_gradient_norm(session: Session) -> float | None:
    """Norm of whole, reduced gradients at stage 0 in float32, where DeepSpeed keeps none."""
    if session.resolved.zero_stage > 0 or session.recipe.model.dtype != "float32":
        return None
    gradients = [p.grad for p in session.engine.module.parameters() if p.grad is not None]
    # In float64: a float32 sum over millions of elements is off by 1e-5.
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    return float(torch.stack(norms).norm())


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout from (seed, step, rank): a resumed run needs no generator state."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state >> np.uint64(1)))  # below 2**63, which manual_seed takes unsigned
