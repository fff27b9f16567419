"""Saving and resuming on all ranks: the commit protocol between its barriers.

Every rank writes its files into an empty folder and flushes them; all vote; rank 0 then writes the
manifest under a temporary name and renames it, which is the moment the checkpoint exists. Only then
is anything pruned. A kill at any point leaves either the old checkpoints or the old and the new.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from launcher.checkpoint import store
from launcher.checkpoint.manifest import ENGINE_TAG, PROBE, read_manifest
from launcher.errors import InputError, Problem, TrainingError
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import RunDir
from launcher.train.agree import all_agree, decided_by_main
from launcher.train.probe import write_probe
from launcher.train.progress import Progress
from launcher.train.session import Session
from launcher.world import World


def save_checkpoint(session: Session, progress: Progress) -> Path:
    """Commit the whole state after the current step, point `latest` (and `best`) to it, prune.

    Raises:
        TrainingError: a rank could not write; the checkpoints before are untouched.
    """
    run_dir, main = session.run_dir, session.world.is_main_process
    folder = run_dir.checkpoint(progress.step)
    if main:
        store.begin(run_dir, progress.step)
    dist.barrier()
    session.engine.save_checkpoint(
        str(folder),
        tag=ENGINE_TAG,
        save_latest=False,
        exclude_frozen_parameters=session.partial_checkpoints,
    )
    write_probe(session, folder / PROBE)
    trouble = _flush(folder)
    if not all_agree(trouble is None, session.device):
        here = f" ({trouble})" if trouble else ""
        raise TrainingError(f"{folder}: a rank could not flush its files{here}; not committed.")
    if main:
        session.recorder.sync()
        _commit(session, progress, folder)
        session.recorder.event("checkpoint", step=progress.step, path=folder.name)
    dist.barrier()
    return folder


def _flush(folder: Path) -> OSError | None:
    try:
        store.flush(folder)
    except OSError as error:
        return error
    return None


def _commit(session: Session, progress: Progress, folder: Path) -> None:
    store.commit(
        folder,
        progress.state_dict(),
        step=progress.step,
        world_size=session.world.world_size,
        zero_stage=session.resolved.zero_stage,
        recipe_digest=session.resolved.digest,
    )
    store.point(session.run_dir.latest, folder)
    if progress.stop.best_step == progress.step and session.recipe.checkpoint.keep_best:
        store.point(session.run_dir.best, folder)
    store.prune(session.run_dir, session.recipe.checkpoint.keep_last)


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on."""

    step: int = 0
    folder: Path | None = None
    """The verified checkpoint; None at the very start."""
    passed_over: tuple[store.PassedOver, ...] = ()
    """Newer folders that could not be used; known to rank 0."""


def choose_checkpoint(
    run_dir: RunDir, resolved: ResolvedRun, world: World, device: torch.device
) -> ResumePoint:
    """Find what to resume from, before the model loads: rank 0 verifies and decides for all.

    Raises:
        InputError: the checkpoint was saved by another number of ranks or at another ZeRO stage.
    """
    newest, passed_over = store.find_newest(run_dir) if world.is_main_process else (None, [])
    step = decided_by_main(-1 if newest is None else read_manifest(newest).step, device)
    if world.is_main_process:
        for bad in passed_over:
            store.quarantine(run_dir, bad.folder)
    if step < 0:
        return ResumePoint(passed_over=tuple(passed_over))
    folder = run_dir.checkpoint(step)
    manifest = read_manifest(folder)
    asked = (world.world_size, resolved.zero_stage)
    if (manifest.world_size, manifest.zero_stage) != asked:
        raise InputError(
            Problem(
                str(folder),
                "",
                f"was saved by {manifest.world_size} ranks at ZeRO stage {manifest.zero_stage}, and"
                f" this run has {asked[0]} ranks at stage {asked[1]}.",
                "Resume with the geometry it was saved with, or start over with --fresh.",
            )
        )
    return ResumePoint(step, folder, tuple(passed_over))


def load_checkpoint(session: Session, folder: Path) -> Progress:
    """Load weights, optimizer and counters of a verified checkpoint into the live engine."""
    loaded, _ = session.engine.load_checkpoint(
        str(folder), tag=ENGINE_TAG, load_module_strict=not session.partial_checkpoints
    )
    if loaded is None:
        raise TrainingError(f"{folder}: DeepSpeed found no state under the tag {ENGINE_TAG!r}.")
    return Progress.from_state_dict(store.read_state(folder))
