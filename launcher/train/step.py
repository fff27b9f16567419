"""One optimizer step: the micro-batches of a window, exactly normalised, and the update."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from launcher.data.sampler import Window, micro_batches
from launcher.errors import TrainingError
from launcher.train.agree import sum_over_ranks
from launcher.train.engine import gradient_norm
from launcher.train.session import Session


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step gave, equal on all ranks."""

    loss_sum: float
    """Sum of the losses of all targets of the window."""
    num_targets: int
    num_tokens: int
    """Real tokens of the window, without padding."""
    grad_norm: float
    skipped: bool
    """True when the engine left the weights alone because a gradient overflowed."""

    @property
    def loss(self) -> float:
        """Loss per target."""
        return self.loss_sum / self.num_targets


def train_step(session: Session, window: Window) -> StepResult:
    """Run the micro-batches of `window`, average over its targets and update the weights.

    The gradient wanted is that of (sum of all losses) / (number of targets in the window).
    DeepSpeed averages gradients over ranks and, with `scale_wrt_gas=False`, divides by nothing
    else: so every micro-batch's summed loss is multiplied by world_size / targets. The number of
    targets is known from the prepared data, without communication, and is right for a short last
    window too.

    Raises:
        TrainingError: the loss is not finite; the weights are as they were before the step.
    """
    engine, train, world = session.engine, session.prepared.train, session.world
    num_targets = int(train.num_targets[window.sample_ids].sum())
    scale = world.world_size / num_targets
    engine.train()  # a model is loaded in eval mode, and evaluation leaves it so
    seed_step(session.recipe.run.seed, window.step, world.rank)
    # Stays on the device until the step is over: reading it would wait for every micro-batch.
    loss_sum = torch.zeros((), dtype=torch.float64, device=session.device)
    batches = micro_batches(
        window.sample_ids, session.recipe.train.micro_batch_size, world.rank, world.world_size
    )
    for micro_step, ids in enumerate(batches):
        last = micro_step == len(batches) - 1
        engine.set_gradient_accumulation_boundary(last)
        batch = session.batch(train, ids)
        output = session.task.forward(engine, batch)
        engine.backward(output.loss_sum * scale, scale_wrt_gas=False)
        loss_sum += output.loss_sum.detach()
        if not last:
            engine.step()
    loss = sum_over_ranks(loss_sum, session.device).item()
    if not math.isfinite(loss):
        raise TrainingError(
            f"step {window.step + 1}: the loss is {loss}; the weights are still those of step"
            f" {window.step}. Rows of this step: {window.sample_ids.tolist()}. Look at them, lower"
            " train.learning_rate, or use model.dtype: bfloat16 instead of float16."
        )
    grad_norm, skipped = _update(session)
    num_tokens = int(train.lengths[window.sample_ids].sum())
    return StepResult(loss, num_targets, num_tokens, grad_norm, skipped)


def _update(session: Session) -> tuple[float, bool]:
    """Step the engine; return the gradient norm before clipping and whether it skipped."""
    engine = session.engine
    own_norm = _plain_gradient_norm(session)
    skipped_before = engine.skipped_steps
    engine.step()
    norm = own_norm if own_norm is not None else gradient_norm(engine)
    return norm, engine.skipped_steps > skipped_before


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
