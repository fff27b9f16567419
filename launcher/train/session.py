"""What one rank holds while it trains: the resolved run, its engine, its data and its records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from launcher.data.cache import TokenCache
from launcher.data.collate import collate
from launcher.data.sampler import Ids, Windows
from launcher.metrics.recorder import Recorder
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.schema import Recipe
from launcher.recipe.steps import StepPlan
from launcher.run_dir import RunDir
from launcher.tasks.interface import Batch, Task
from launcher.train.prepare import Prepared
from launcher.world import World

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True)
class Session:
    """Everything that stays the same from the first step to the last."""

    resolved: ResolvedRun
    world: World
    run_dir: RunDir
    engine: DeepSpeedEngine
    task: Task
    prepared: Prepared
    windows: Windows
    plan: StepPlan
    recorder: Recorder
    partial_checkpoints: bool
    """True where the base is frozen: checkpoints then hold only what is trained."""

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.resolved.recipe

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self.engine.device)

    def batch(self, cache: TokenCache, ids: Ids) -> Batch:
        """Return rows of a cache as one micro-batch on this rank's device."""
        tensors = collate(cache, ids, self.prepared.tokenizer.pad_token_id)
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    @property
    def monitor(self) -> str:
        """The metric that decides on the best checkpoint and on early stopping."""
        stopping = self.recipe.early_stopping
        return stopping.monitor if stopping else "validation/loss"
