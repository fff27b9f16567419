"""What one rank holds while it trains: the resolved run, its engine, its data and its records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from launcher.data.cache import TokenCache
from launcher.data.collate import collate
from launcher.data.sampler import Ids, Windows
from launcher.metrics.recorder import Recorder
from launcher.model.load import LoadedModel
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.schema import Recipe
from launcher.recipe.steps import StepPlan
from launcher.run_dir import RunDir
from launcher.tasks.interface import Batch, Task
from launcher.train.heartbeat import Heartbeat
from launcher.train.local_work import WorkTimer
from launcher.train.non_finite import NumberWatch
from launcher.train.prepare import Prepared
from launcher.train.step_observer import StepObserver
from launcher.train.watch import RankWatch
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
    watch: RankWatch
    observers: tuple[StepObserver, ...]
    """Look at every step, before those that the loop itself has."""

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.resolved.recipe

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self.engine.device)

    @property
    def heartbeat(self) -> Heartbeat:
        """Where this rank says what it is doing."""
        return self.watch.heartbeat

    def describe(self, loaded: LoadedModel) -> dict[str, Any]:
        """Return what the start event says of a run: its geometry, engine and size."""
        batch = self.resolved.batch
        return {
            "world_size": self.world.world_size,
            "num_nodes": self.world.num_nodes,
            "engine": type(self.engine).__name__,
            "zero_stage": self.engine.zero_optimization_stage(),
            "device": self.device.type,
            "method": self.recipe.method.type,
            "micro_batch_size": batch.micro_batch_size,
            "gradient_accumulation_steps": batch.gradient_accumulation_steps,
            "total_steps": self.plan.total_steps,
            "steps_per_epoch": self.plan.steps_per_epoch,
            "trainable_parameters": loaded.num_trainable,
            "total_parameters": loaded.num_total,
            "parameters_on_rank": loaded.num_local,
            "new_tensors": len(loaded.new_tensors),
        }

    def batch(self, cache: TokenCache, ids: Ids) -> Batch:
        """Return rows of a cache as one micro-batch on this rank's device."""
        return self.to_device(self.collate(cache, ids))

    def collate(self, cache: TokenCache, ids: Ids) -> Batch:
        """Return rows of a cache as one micro-batch on the host."""
        return collate(cache, ids, self.prepared.tokenizer.pad_token_id)

    def to_device(self, batch: Batch) -> Batch:
        """Return a micro-batch on this rank's device."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    @cached_property
    def work(self) -> WorkTimer:
        """Times what this rank does by itself."""
        return WorkTimer(self.engine.module, self.device, self.resolved.zero_stage)

    @cached_property
    def numbers(self) -> NumberWatch:
        """Notes where in a step a number goes bad."""
        return NumberWatch(self.engine.module, self.device)

    @property
    def monitor(self) -> str:
        """The metric that decides on the best checkpoint and on early stopping."""
        stopping = self.recipe.early_stopping
        return stopping.monitor if stopping else "validation/loss"
