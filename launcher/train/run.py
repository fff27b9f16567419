"""The story of one rank, top to bottom: join, load, shard, resume, train, hand over."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from launcher.checkpoint.describe import save_description
from launcher.data.sampler import Windows
from launcher.metrics.recorder import open_recorder
from launcher.model.load import LoadedModel, load_model
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.steps import plan_steps
from launcher.tasks.registry import task_for
from launcher.train.engine import shard, start_accelerator
from launcher.train.finish import finish
from launcher.train.folder import claim_run_folder, wandb_run_id
from launcher.train.gradient_audit import GradientAudit
from launcher.train.loop import train
from launcher.train.optim import build_optimizer
from launcher.train.prepare import open_prepared
from launcher.train.progress import Progress
from launcher.train.save import choose_checkpoint, load_checkpoint
from launcher.train.session import Session
from launcher.world import World, has_wandb_key


def run_rank(resolved: ResolvedRun, world: World, terminal: TextIO = sys.stdout) -> Progress:
    """Carry one rank of a run from nothing (or its newest checkpoint) to the end.

    `terminal` is where rank 0 shows progress.
    """
    recipe = resolved.recipe
    prepared = open_prepared(recipe)
    accelerator = start_accelerator(resolved, world)
    run_dir = claim_run_folder(resolved, prepared.report, world)
    checkpoint, passed_over = choose_checkpoint(run_dir, resolved, world, accelerator.device)

    task = task_for(recipe.model.task)
    loaded = load_model(
        recipe,
        auto_class=task.auto_class,
        head_patterns=task.head_patterns,
        labels=prepared.labels,
        tokenizer=prepared.tokenizer,
        zero_stage=resolved.zero_stage,
        device=accelerator.device,
    )
    if world.is_main_process:
        save_description(run_dir, recipe, loaded.model, prepared.tokenizer)
    audit = GradientAudit(loaded.model)
    optimizer = build_optimizer(loaded.model, recipe.train, accelerator.device)
    windows = Windows(
        prepared.train.lengths,
        recipe.train.global_batch_size,
        recipe.run.seed,
        recipe.data.shuffle,
        recipe.data.length_grouping,
    )
    plan = plan_steps(recipe.train, len(prepared.train))
    engine = shard(accelerator, loaded.model, optimizer, resolved)
    recorder = open_recorder(
        run_dir,
        recipe,
        resume_step=int(checkpoint.name.removeprefix("step-")) if checkpoint else 0,
        total_steps=plan.total_steps,
        wandb_run_id=wandb_run_id(run_dir, world),
        has_wandb_key=has_wandb_key(),
        is_main_process=world.is_main_process,
        terminal=terminal,
    )
    with recorder:
        session = Session(
            resolved,
            world,
            run_dir,
            engine,
            task,
            prepared,
            windows,
            plan,
            recorder,
            partial_checkpoints=recipe.method.type != "full",
        )
        recorder.event("start", **describe(session, loaded))
        for bad in passed_over:
            recorder.event("warning", message=f"checkpoint {bad.folder.name} {bad.reason}")
        progress = load_checkpoint(session, checkpoint) if checkpoint else Progress()
        outcome = train(session, progress, audit)
        finish(session, progress, outcome)
    return progress


def describe(session: Session, loaded: LoadedModel) -> dict[str, Any]:
    """Return what the start event says of a run: its geometry, engine and size."""
    batch = session.resolved.batch
    return {
        "world_size": session.world.world_size,
        "num_nodes": session.world.num_nodes,
        "engine": type(session.engine).__name__,
        "zero_stage": session.engine.zero_optimization_stage(),
        "device": session.device.type,
        "method": session.recipe.method.type,
        "micro_batch_size": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        "total_steps": session.plan.total_steps,
        "trainable_parameters": loaded.num_trainable,
        "total_parameters": loaded.num_total,
        "new_tensors": len(loaded.new_tensors),
    }
