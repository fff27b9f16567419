"""A real run of transformers' Trainer that saves when it is told to, on one process or on ranks.

    python -m benchmarks.stall.trainer ADDRESS RECIPE FOLDER key=value ...

Model, data and precision are those of the recipe; Trainer brings optimizer and loop. On ranks it
trains with the recipe's DeepSpeed config, otherwise without.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from benchmarks.stall.measure import Clock, Save, bytes_below, require_equal
from benchmarks.stall.workers import END
from launcher.data.cache import TokenCache
from launcher.model.load import load_model
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.tasks.registry import task_for
from launcher.train import engine_state
from launcher.train.prepare import Prepared, open_prepared
from launcher.world import World


class Rows(Dataset[dict[str, Any]]):
    """Prepared rows as Trainer wants them."""

    def __init__(self, cache: TokenCache) -> None:
        self._cache = cache

    def __len__(self) -> int:
        return len(self._cache)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._cache[index]
        return {"input_ids": row.input_ids.tolist(), "labels": row.label}


class TimedTrainer(Trainer):
    """Trainer, with a clock around its checkpoints and a look into them afterwards."""

    answer: Any = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        expected = {name: tensor.clone() for name, tensor in self._state().items()}
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        _barrier()
        with Clock() as clock:
            super()._save_checkpoint(model, trial)
        _barrier()
        size = bytes_below(folder) if self.is_world_process_zero() else 0
        self._check(folder, expected)
        _barrier()
        if self.is_world_process_zero():
            shutil.rmtree(folder)
        self.answer = Save(clock.wall, clock.cpu, size)

    @torch.no_grad()
    def _check(self, folder: Path, expected: dict[str, Tensor]) -> None:
        """Let Trainer load the checkpoint into a state of zeros."""
        for tensor in self._state().values():
            tensor.zero_()
        if self.is_deepspeed_enabled:
            strict = not hasattr(self.model, "peft_config")
            deepspeed_load_checkpoint(self.model_wrapped, str(folder), load_module_strict=strict)
        else:
            self._load_from_checkpoint(str(folder))
            self._load_optimizer_and_scheduler(str(folder))
        found = self._state()
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            require_equal(found[name], tensor, f"Trainer, {name}")

    def _state(self) -> dict[str, Tensor]:
        """Return what is saved on this rank, by name: weights, masters and moments."""
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        state: dict[str, Tensor] = {f"model/{name}": p.data for name, p in trained.items()}
        if self.is_deepspeed_enabled:
            state |= {f.key: f.tensor for f in engine_state.fragments(self.model_wrapped)}
        else:
            for name, parameter in trained.items():
                for moment in engine_state.MOMENTS:
                    state[f"{moment}/{name}"] = self.optimizer.state[parameter][moment]
        return state


class Commanded(TrainerCallback):
    """Between two steps, waits for the word to save."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Any = None
        self.trainer: Any = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Say that there is something to save, or what the last save took; then wait."""
        from multiprocessing.connection import Client

        if self._connection is None:
            self._connection = Client(self._address)
            tensors = self.trainer._state().values()
            self._connection.send({"bytes": sum(tensor.nbytes for tensor in tensors)})
        else:
            self._connection.send(self.trainer.answer)
        control.should_training_stop = self._connection.recv() == END
        control.should_save = not control.should_training_stop
        return control


def build(address: str, resolved: ResolvedRun, prepared: Prepared, folder: Path) -> Trainer:
    """Return Trainer for the recipe's model and data."""
    recipe, world = resolved.recipe, World.from_environment()
    on_ranks = world.world_size > 1
    if on_ranks:
        PartialState(backend="gloo")  # Trainer alone would not name it
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=100_000,
        per_device_train_batch_size=recipe.train.micro_batch_size,
        learning_rate=recipe.train.learning_rate,
        save_strategy="no",  # but when it is told to
        report_to=[],
        disable_tqdm=True,
        use_cpu=not on_ranks,
        deepspeed=resolved.deepspeed if on_ranks else None,
        accelerator_config={"use_configured_state": on_ranks},
    )
    task = task_for(recipe.model.task)
    loaded = load_model(
        recipe,
        auto_class=task.auto_class,
        head_patterns=task.head_patterns,
        labels=prepared.labels,
        tokenizer=prepared.tokenizer,
        zero_stage=resolved.zero_stage if on_ranks else 0,
        device=torch.device("cpu"),
    )
    commanded = Commanded(address)
    trainer = TimedTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=Rows(prepared.train),
        data_collator=DataCollatorWithPadding(prepared.tokenizer),
        callbacks=[commanded],
    )
    commanded.trainer = trainer
    return trainer


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def main() -> None:
    """Train until the driver has had enough."""
    torch.set_num_threads(1)
    address, recipe, folder, *overrides = sys.argv[1:]
    resolved = resolve(recipe, overrides, World.from_environment().world_size)
    build(address, resolved, open_prepared(resolved.recipe_of_data), Path(folder)).train()


if __name__ == "__main__":
    main()
