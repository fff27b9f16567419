"""What a rank needs before its first step: the task's model, and the session around the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import torch

from launcher.checkpoint.describe import save_description
from launcher.data.sampler import Windows
from launcher.metrics.recorder import open_recorder
from launcher.model.load import LoadedModel, load_model
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.steps import plan_steps
from launcher.run_dir import RunDir
from launcher.tasks.registry import task_for
from launcher.train.folder import wandb_run_id
from launcher.train.inputs import changes_since
from launcher.train.prepare import Prepared
from launcher.train.resume import ResumePoint
from launcher.train.session import Session
from launcher.train.step_observer import StepObserver
from launcher.train.watch import RankWatch
from launcher.world import World, has_wandb_key

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def load_task_model(
    resolved: ResolvedRun, prepared: Prepared, run_dir: RunDir, world: World, device: torch.device
) -> LoadedModel:
    """Load the recipe's model for its task; rank 0 keeps its description for the export."""
    task = task_for(resolved.recipe.model.task)
    loaded = load_model(
        resolved.recipe,
        auto_class=task.auto_class,
        head_patterns=task.head_patterns,
        labels=prepared.labels,
        tokenizer=prepared.tokenizer,
        zero_stage=resolved.zero_stage,
        device=device,
    )
    if world.is_main_process:
        save_description(run_dir, resolved.recipe, loaded.model, prepared.tokenizer)
    return loaded


def open_session(
    resolved: ResolvedRun,
    world: World,
    run_dir: RunDir,
    engine: DeepSpeedEngine,
    prepared: Prepared,
    checkpoint: ResumePoint,
    terminal: TextIO,
    watch: RankWatch,
    observers: tuple[StepObserver, ...],
) -> Session:
    """Put engine, data, sample order, step counts and records together."""
    recipe = resolved.recipe
    plan = plan_steps(recipe.train, len(prepared.train))
    windows = Windows(
        prepared.train.lengths,
        recipe.train.global_batch_size,
        recipe.run.seed,
        recipe.data.shuffle,
        recipe.data.length_grouping,
    )
    recorder = open_recorder(
        run_dir,
        recipe,
        resume_step=checkpoint.step,
        total_steps=plan.total_steps,
        wandb_run_id=wandb_run_id(run_dir, recipe, world),
        has_wandb_key=has_wandb_key(),
        is_main_process=world.is_main_process,
        terminal=terminal,
    )
    return Session(
        resolved=resolved,
        world=world,
        run_dir=run_dir,
        engine=engine,
        task=task_for(recipe.model.task),
        prepared=prepared,
        windows=windows,
        plan=plan,
        recorder=recorder,
        watch=watch,
        observers=observers,
    )


def announce(session: Session, loaded: LoadedModel, checkpoint: ResumePoint) -> None:
    """Record what starts here, what it goes on from, and what could not be used."""
    recorder = session.recorder
    recorder.event("start", **session.describe(loaded), resumed_from=checkpoint.step)
    for bad in checkpoint.passed_over:
        recorder.event("warning", message=f"checkpoint {bad.folder.name} {bad.reason}")
    for message in checkpoint.warnings:
        recorder.event("warning", message=message)
    if checkpoint.manifest is not None:
        recorder.event("resume", **checkpoint.describe(session.resolved, session.world))
        now, digest = session.prepared.inputs, session.resolved.digest
        for change in changes_since(checkpoint.manifest, now, digest):
            recorder.event("warning", message=change)
