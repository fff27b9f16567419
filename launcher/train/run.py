"""The story of one rank, top to bottom: join, load, shard, resume, train, hand over."""

from __future__ import annotations

import sys
from typing import TextIO

from launcher.recipe.resolve import ResolvedRun
from launcher.train.engine import shard, start_accelerator
from launcher.train.finish import finish, is_finished
from launcher.train.folder import claim_run_folder
from launcher.train.gradient_audit import GradientAudit
from launcher.train.loop import train
from launcher.train.optim import build_optimizer
from launcher.train.prepare import open_prepared
from launcher.train.progress import Progress
from launcher.train.save import choose_checkpoint, load_checkpoint
from launcher.train.setup import load_task_model, open_session
from launcher.world import World


def run_rank(resolved: ResolvedRun, world: World, terminal: TextIO = sys.stdout) -> None:
    """Carry one rank of a run from nothing (or its newest checkpoint) to the end.

    `terminal` is where rank 0 shows progress. A finished run is left alone.
    """
    prepared = open_prepared(resolved.recipe)
    accelerator = start_accelerator(resolved, world)  # first: ZeRO-3 partitions while loading
    device = accelerator.device
    run_dir = claim_run_folder(resolved, prepared.report, world)
    if is_finished(run_dir, device):
        return
    checkpoint = choose_checkpoint(run_dir, resolved, world, device)

    loaded = load_task_model(resolved, prepared, run_dir, world, device)
    audit = GradientAudit(loaded.model)
    optimizer = build_optimizer(loaded.model, resolved.recipe.train, device)
    engine = shard(accelerator, loaded.model, optimizer, resolved)

    session = open_session(resolved, world, run_dir, engine, prepared, checkpoint.step, terminal)
    with session.recorder as recorder:
        recorder.event("start", **session.describe(loaded), resumed_from=checkpoint.step)
        for bad in checkpoint.passed_over:
            recorder.event("warning", message=f"checkpoint {bad.folder.name} {bad.reason}")
        progress = load_checkpoint(session, checkpoint.folder) if checkpoint.folder else Progress()
        outcome = train(session, progress, audit)
        finish(session, progress, outcome)
