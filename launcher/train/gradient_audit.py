"""Checks that training really trains: every trainable tensor gets a finite, non-zero gradient.

A frozen-input bug under gradient checkpointing, an adapter on an unused module or a detached head
all train without complaint and leave tensors untouched; nothing but their gradients shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from launcher.errors import TrainingError
from launcher.train.agree import sum_over_ranks
from launcher.train.step_observer import StepObserver

if TYPE_CHECKING:
    from launcher.train.progress import Progress
    from launcher.train.session import Session
    from launcher.train.step import StepResult

NUM_AUDITED_STEPS = 2
"""LoRA's B starts at zero, so that A's first gradient is exactly zero: A is judged at step two."""
LATE_PARTS = ("lora_A", "lora_embedding_A")


class GradientAudit(StepObserver):
    """Watches the gradients of the first two steps through hooks, then gets out of the way."""

    def __init__(self, model: nn.Module) -> None:
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._nonzero = torch.zeros(len(self._names), dtype=torch.float64)
        self._nonfinite = torch.zeros(len(self._names), dtype=torch.float64)
        self._num_judged = 0
        parameters = dict(model.named_parameters())
        self._handles: list[RemovableHandle] = [
            parameters[name].register_hook(self._watch(index))
            for index, name in enumerate(self._names)
        ]

    def _watch(self, index: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not gradient.numel():
                return
            # One pass without a copy, and read once; a NaN anywhere makes both NaN.
            extremes = torch.stack(torch.aminmax(gradient)).tolist()
            if not all(map(math.isfinite, extremes)):
                self._nonfinite[index] = 1.0
            elif any(extremes):
                self._nonzero[index] = 1.0

        return hook

    @property
    def active(self) -> bool:
        """True until both audited steps have been judged."""
        return bool(self._handles)

    def after_step(self, session: Session, progress: Progress, result: StepResult) -> None:
        """Judge one of the first steps that made an update, and say what got no gradient.

        Raises:
            TrainingError: see `judge`.
        """
        if not self.active:
            return
        if result.skipped:
            self.discard()
            return
        strict = session.recipe.train.zero_gradients == "error"
        missing = self.judge(progress.step, session.device, strict=strict)
        if missing:
            session.recorder.event(
                "warning", step=progress.step, message="no gradient", tensors=missing
            )

    def judge(self, step: int, device: torch.device, *, strict: bool) -> list[str]:
        """Judge the step just taken on all ranks; return the names of tensors without gradient.

        Raises:
            TrainingError: a gradient was not finite, or (if `strict`) a tensor had none.
        """
        nonfinite = sum_over_ranks(self._nonfinite, device)
        nonzero = sum_over_ranks(self._nonzero, device)
        bad = self._select(nonfinite > 0)
        if bad:
            raise TrainingError(
                f"step {step}: gradient of {_some(bad)} is not finite. Check the data for extreme"
                " values, lower train.learning_rate or use model.dtype: bfloat16."
            )
        self._num_judged += 1
        late = self._num_judged < NUM_AUDITED_STEPS
        missing = [
            name
            for name in self._select(nonzero == 0)
            if not (late and any(part in name for part in LATE_PARTS))
        ]
        if missing and strict:
            raise TrainingError(
                f"step {step}: {len(missing)} of {len(self._names)} trainable tensors got no"
                f" gradient: {_some(missing)}. They would stay as they are. Train fewer tensors"
                " (method freeze or target_modules), or accept it with train.zero_gradients: warn."
            )
        if not late:
            self.close()
        return missing

    def discard(self) -> None:
        """Forget the step just taken: its update was skipped, and another is judged instead."""
        self._nonzero.zero_()
        self._nonfinite.zero_()

    def _select(self, mask: Tensor) -> list[str]:
        return [name for name, chosen in zip(self._names, mask.tolist(), strict=True) if chosen]

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
