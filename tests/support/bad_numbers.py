"""Makes numbers go bad on one rank of a real run, and looks at what the step did to the engine."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from launcher.tasks.registry import task_for
from launcher.train.step_observer import StepObserver
from launcher.world import World

if TYPE_CHECKING:
    from launcher.data.sampler import Window
    from launcher.train.progress import Progress
    from launcher.train.session import Session
    from launcher.train.step import StepResult

Kind = Literal["nan loss", "infinite loss", "infinite gradient", "one infinite tensor", "huge loss"]

BAD_RANK = 1
BAD_MICRO_STEP = 1


@dataclass
class Poison(StepObserver):
    """What goes wrong at which steps (from 1) on rank 1, in its second micro-batch.

    Called in each rank before it trains, and an observer of its steps. `notes` gets one file a
    rank: by step, a checksum of all weights and optimizer state before and after. The steps of
    `leave_out` are taken back on all ranks: the state is as if they had not been.
    In evaluations after the steps of `evaluations`, rank 1 predicts NaN.
    """

    notes: Path
    at: Mapping[int, Kind]
    leave_out: frozenset[int] = frozenset()
    evaluations: frozenset[int] = frozenset()
    _seen: dict[int, dict[str, Any]] = field(default_factory=dict)
    _before: list[torch.Tensor] = field(default_factory=list)
    _now: int = 0
    _micro_step: int = -1

    def __call__(self) -> None:
        """Let the task's forward pass go wrong on this rank."""
        self.notes.mkdir(parents=True, exist_ok=True)
        if World.from_environment().rank != BAD_RANK:
            return
        task: Any = task_for("sequence-classification")
        forward = task.forward

        def poisoned(model: Any, batch: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(NanPredictions(model, self._now in self.evaluations), batch)
            output = forward(model, batch)
            self._micro_step += 1
            kind = self.at.get(self._now)
            if kind is not None and self._micro_step == BAD_MICRO_STEP:
                object.__setattr__(output, "loss_sum", spoil(kind, output.loss_sum, model))
            return output

        task.forward = poisoned

    def before_step(self, session: Session, window: Window) -> None:
        self._now, self._micro_step = window.step + 1, -1
        if self._now in self.leave_out:
            live = state_of(session.engine) + whole_of(session.engine)
            self._before = [tensor.clone() for tensor in live]
        self._seen[self._now] = {
            "before": self._seen[self._now - 1]["after"]
            if self._now - 1 in self._seen
            else checksum(session.engine),
            "window": window.sample_ids.tolist(),
        }

    def after_step(self, session: Session, progress: Progress, result: StepResult) -> None:
        if self._now in self.leave_out:
            live = state_of(session.engine) + whole_of(session.engine)
            for tensor, before in zip(live, self._before, strict=True):
                tensor.copy_(before)
        found = result.non_finite
        self._seen[self._now] |= {
            "after": checksum(session.engine),
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "skipped": result.skipped,
            "cause": found and found.cause,
            "sample_ids": found and found.sample_ids,
            "seen": found and {str(who): ids for who, ids in found.seen.items()},
        }
        note = self.notes / f"rank-{session.world.rank}.json"
        note.write_text(json.dumps(self._seen))

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


def state_of(engine: Any) -> list[torch.Tensor]:
    """Return all weights, float32 masters and optimizer state that this rank holds, live."""
    # At ZeRO-3 a parameter is whole or empty as it is needed; its shard is what there is to keep.
    tensors = [getattr(p, "ds_tensor", p).data for p in engine.module.parameters()]
    wrapper = engine.optimizer
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        tensors += [tensor.data for tensor in getattr(wrapper, name, [])]
    masters = [tensor for group in getattr(wrapper, "fp32_groups", []) for tensor in group]
    tensors += [tensor.data for tensor in masters]
    plain = getattr(wrapper, "optimizer", wrapper)
    states = [values for values in plain.state.values() if values]
    return tensors + [
        v for values in states for _, v in sorted(values.items()) if torch.is_tensor(v)
    ]


def whole_of(engine: Any) -> list[torch.Tensor]:
    """Return the small parameters of ZeRO-3 that stay whole between two steps, live."""
    return [p.data for p in engine.module.parameters() if hasattr(p, "ds_tensor") and p.numel()]


def checksum(engine: Any) -> int:
    """Return a checksum of this rank's weights, float32 masters and optimizer state."""
    whole = 1
    for tensor in state_of(engine):
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        whole = zlib.adler32(data, whole)
    return whole
