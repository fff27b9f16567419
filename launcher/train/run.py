"""The story of one rank, top to bottom: join, load, shard, resume, train, hand over."""

from __future__ import annotations

import sys
from typing import TextIO

from launcher.recipe.resolve import ResolvedRun
from launcher.train.engine import shard, start_accelerator
from launcher.train.finish import finish, is_finished
from launcher.train.folder import claim_run_folder
from launcher.train.loop import train
from launcher.train.operators import watch_builds
from launcher.train.optim import build_optimizer
from launcher.train.prepare import open_prepared
from launcher.train.resume import choose_checkpoint, resume
from launcher.train.setup import announce, load_task_model, open_session
from launcher.train.step_observer import StepObserver
from launcher.train.watch import RankWatch, quiet_watch
from launcher.world import World


def run_rank(
    resolved: ResolvedRun,
    world: World,
    terminal: TextIO = sys.stdout,
    watch: RankWatch | None = None,
    observers: tuple[StepObserver, ...] = (),
) -> None:
    """Carry one rank of a run from nothing (or its newest checkpoint) to the end.

    `terminal` is where rank 0 shows progress; `watch` is what stops and watches this rank;
    `observers` look at every step. A finished run is left alone. Raises Stopped where the run was
    asked to stop.
    """
    watch = watch or quiet_watch(world)
    heartbeat = watch.heartbeat
    heartbeat.at("start")  # the libraries are imported
    prepared = open_prepared(resolved.recipe_of_data, verify=world.is_main_process)
    watch_builds(heartbeat, world, terminal)
    accelerator = start_accelerator(resolved, world)  # first: ZeRO-3 partitions while loading
    device = accelerator.device
    run_dir = claim_run_folder(resolved, prepared.report, world, device)
    heartbeat.watch(run_dir)
    if is_finished(run_dir, device):
        return
    heartbeat.at("resume")
    checkpoint = choose_checkpoint(run_dir, resolved, prepared, world, device)

    heartbeat.at("load")
    loaded = load_task_model(resolved, prepared, run_dir, world, device)
    optimizer = build_optimizer(loaded.model, resolved.recipe.train, device)
    engine = shard(accelerator, loaded.model, optimizer, resolved)

    session = open_session(
        resolved, world, run_dir, engine, prepared, checkpoint, terminal, watch, observers
    )
    with session.recorder:
        announce(session, loaded, checkpoint)
        heartbeat.at("resume", step=checkpoint.step)
        progress = resume(session, checkpoint)
        outcome = train(session, progress)
        heartbeat.at("export")
        finish(session, progress, outcome)
