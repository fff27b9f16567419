"""Makes numbers go bad on one rank of a real run, and looks at what the step did to the engine."""

from __future__ import annotations

import importlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from launcher.tasks.registry import task_for
from launcher.world import World

Kind = Literal["nan loss", "infinite loss", "infinite gradient", "one infinite tensor", "huge loss"]

BAD_RANK = 1
BAD_MICRO_STEP = 1


@dataclass(frozen=True)
class Poison:
    """What goes wrong at which steps (from 1) on rank 1, in its second micro-batch.

    Called in each rank before it trains. `notes` gets one file a rank: by step, a checksum of all
    weights and optimizer state before and after. With `leave_out`, no rank takes those steps.
    In evaluations after the steps of `evaluations`, rank 1 predicts NaN.
    """

    notes: Path
    at: Mapping[int, Kind]
    leave_out: frozenset[int] = frozenset()
    evaluations: frozenset[int] = frozenset()

    def __call__(self) -> None:
        loop: Any = importlib.import_module("launcher.train.loop")
        task: Any = task_for("sequence-classification")
        rank = World.from_environment().rank
        train_step, forward = loop.train_step, task.forward
        seen: dict[int, Any] = {}
        now = {"step": 0, "micro_step": -1}
        state: list[int] = []

        def watched(session: Any, window: Any) -> Any:
            now.update(step=window.step + 1, micro_step=-1)
            before = state.pop() if state else checksum(session.engine)
            if now["step"] in self.leave_out:
                result = left_out(session, window)
            else:
                result = train_step(session, window)
            found = result.non_finite
            state.append(checksum(session.engine))
            seen[now["step"]] = {
                "before": before,
                "after": state[0],
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "skipped": result.skipped,
                "cause": found and found.cause,
                "sample_ids": found and found.sample_ids,
                "seen": found and {str(who): ids for who, ids in found.seen.items()},
                "window": window.sample_ids.tolist(),
            }
            (self.notes / f"rank-{rank}.json").write_text(json.dumps(seen))
            return result

        def poisoned(model: Any, batch: Any) -> Any:
            if rank != BAD_RANK:
                return forward(model, batch)
            if not torch.is_grad_enabled():
                return forward(NanPredictions(model, now["step"] in self.evaluations), batch)
            output = forward(model, batch)
            now["micro_step"] += 1
            kind = self.at.get(now["step"])
            if kind is not None and now["micro_step"] == BAD_MICRO_STEP:
                object.__setattr__(output, "loss_sum", spoil(kind, output.loss_sum, model))
            return output

        self.notes.mkdir(parents=True, exist_ok=True)
        loop.train_step = watched
        task.forward = poisoned

    def read(self, rank: int) -> dict[int, dict[str, Any]]:
        """Return what one rank noted, by step."""
        noted = json.loads((self.notes / f"rank-{rank}.json").read_text())
        return {int(step): values for step, values in noted.items()}


@dataclass(frozen=True)
class NanPredictions:
    """A model whose predictions are not numbers, or (if not `on`) the model as it is."""

    model: Any
    on: bool

    def __call__(self, **inputs: Any) -> Any:
        output = self.model(**inputs)
        if self.on:
            output.logits = output.logits * math.nan
        return output


def spoil(kind: Kind, loss: torch.Tensor, model: Any) -> torch.Tensor:
    """Return a loss that is bad in this way, or whose gradient will be."""
    if kind == "nan loss":
        return loss * math.nan
    if kind == "infinite loss":  # its gradient is finite
        return loss + math.inf
    if kind == "huge loss":
        return loss + 1e30
    if kind == "infinite gradient":
        spoilt = loss * 1.0
        spoilt.register_hook(lambda gradient: gradient * math.inf)
        return spoilt
    last = [p for p in model.module.parameters() if p.requires_grad][-1]
    handles: list[Any] = []

    def once(gradient: torch.Tensor) -> torch.Tensor:
        handles[0].remove()
        return gradient * math.inf

    handles.append(last.register_hook(once))
    return loss


def left_out(session: Any, window: Any) -> Any:
    """Return the result of a step that is not taken."""
    from launcher.train.local_work import LocalWork
    from launcher.train.non_finite import NonFinite
    from launcher.train.step import StepResult

    ids = tuple(window.sample_ids.tolist())
    num_tokens = int(session.prepared.train.lengths[window.sample_ids].sum())
    found = NonFinite("loss", math.nan, ids, {})
    return StepResult(0.0, 0, num_tokens, None, found, LocalWork(0.0, 0, 0.0))


def checksum(engine: Any) -> int:
    """Return a checksum of this rank's weights, float32 masters and optimizer state."""
    # At ZeRO-3 a parameter is whole or empty as it is needed; its shard is what there is to keep.
    tensors = [getattr(p, "ds_tensor", p.data) for p in engine.module.parameters()]
    wrapper = engine.optimizer
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        tensors += getattr(wrapper, name, [])
    tensors += [tensor for group in getattr(wrapper, "fp32_groups", []) for tensor in group]
    plain = getattr(wrapper, "optimizer", wrapper)
    states = [values for values in plain.state.values() if values]
    tensors += [v for values in states for _, v in sorted(values.items()) if torch.is_tensor(v)]
    whole = 1
    for tensor in tensors:
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        whole = zlib.adler32(data, whole)
    return whole
