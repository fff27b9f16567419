"""Where a run goes on: the newest checkpoint that verifies, on whatever ranks there are now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from launcher.checkpoint import store
from launcher.checkpoint.fragments import SavedTensors
from launcher.checkpoint.manifest import (
    NEVER_COMMITTED,
    Manifest,
    read_manifest,
    why_damaged,
    why_incomplete,
)
from launcher.errors import InputError, NoCheckpointError, Problem
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import RunDir, step_of
from launcher.train import engine_state
from launcher.train.agree import decided_by_main, first_trouble
from launcher.train.inputs import compare_inputs
from launcher.train.prepare import Prepared
from launcher.train.progress import Progress
from launcher.train.session import Session
from launcher.world import World


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on."""

    step: int = 0
    folder: Path | None = None
    """The verified checkpoint; None at the very start."""
    manifest: Manifest | None = None
    passed_over: tuple[store.PassedOver, ...] = ()
    """Folders that could not be used."""
    warnings: tuple[str, ...] = ()
    """What went wrong while they were cleared away, on rank 0."""

    def describe(self, resolved: ResolvedRun, world: World) -> dict[str, Any]:
        """Return what the resume event says: from where, and what was cut anew."""
        assert self.manifest is not None
        saved = (self.manifest.world_size, self.manifest.zero_stage)
        now = (world.world_size, resolved.zero_stage)
        return {
            "step": self.step,
            "saved_by": f"{saved[0]} ranks at ZeRO stage {saved[1]}",
            "resumed_by": f"{now[0]} ranks at ZeRO stage {now[1]}",
            "resharded": saved != now,
        }


def choose_checkpoint(
    run_dir: RunDir,
    resolved: ResolvedRun,
    prepared: Prepared,
    world: World,
    device: torch.device,
) -> ResumePoint:
    """Find what to resume from, before the model loads. Collective: each rank verifies a share.

    Folders that can't be used are passed over, and cleared away once the choice is made.

    Raises:
        NoCheckpointError: there are committed checkpoints, and every one is damaged.
        InputError: data or base model are not those of the checkpoint, or its optimizer's state
            can't be cut for this geometry.
    """
    candidates = run_dir.all_checkpoints[::-1]
    passed_over: list[store.PassedOver] = []
    for index in range(decided_by_main(len(candidates), device)):
        step = decided_by_main(_step_of(candidates, index), device)
        folder = run_dir.checkpoint(step)
        reason = first_trouble(_verify_share(folder, world), device)
        if reason is None:
            manifest = read_manifest(folder)
            _refuse_uncuttable(folder, manifest, resolved, world)
            compare_inputs(manifest.inputs, prepared.inputs, resolved.allowed_changes)
            warnings = _clear_away(run_dir, passed_over, world, device)
            return ResumePoint(step, folder, manifest, tuple(passed_over), warnings)
        passed_over.append(store.PassedOver(folder, reason))
    damaged = [bad for bad in passed_over if NEVER_COMMITTED not in bad.reason]
    if damaged:
        reasons = "".join(f"\n  {bad.folder.name}: {bad.reason}" for bad in damaged)
        raise NoCheckpointError(
            f"{run_dir.checkpoints}: no usable checkpoint{reasons}\nStart over with --fresh."
        )
    warnings = _clear_away(run_dir, passed_over, world, device)
    return ResumePoint(passed_over=tuple(passed_over), warnings=warnings)


def resume(session: Session, point: ResumePoint) -> Progress:
    """Load weights, moments and counters into the live engine; return the counters. Collective."""
    if point.folder is None or point.manifest is None:
        return Progress()
    with SavedTensors(point.folder, point.manifest) as saved:
        engine_state.restore(session.engine, saved, point.manifest)
    progress = Progress.from_state_dict(point.manifest.progress)
    if session.world.is_main_process:
        try:
            _point_links(session.run_dir, point.folder, progress)
        except OSError as error:
            session.recorder.event(
                "warning",
                message=f"{error.filename}: the links to the newest and the best checkpoint were"
                f" not renewed: {error.strerror}",
            )
    return progress


def _step_of(candidates: list[Path], index: int) -> int:
    """Return the step of a candidate; only rank 0's answer counts."""
    if index >= len(candidates):
        return 0
    return step_of(candidates[index])


def _verify_share(folder: Path, world: World) -> str | None:
    """Return what is wrong with a checkpoint as far as this rank looks: at every N-th file."""
    reason = why_incomplete(folder)
    if reason is not None:
        return reason
    files = read_manifest(folder).files
    return why_damaged(folder, files, sorted(files)[world.rank :: world.world_size])


def _refuse_uncuttable(
    folder: Path, manifest: Manifest, resolved: ResolvedRun, world: World
) -> None:
    saved = (manifest.world_size, manifest.zero_stage)
    asked = (world.world_size, resolved.zero_stage)
    if manifest.optimizer == "adamw" or saved == asked:
        return
    raise InputError(
        Problem(
            str(folder),
            "train.optimizer",
            f"was saved by {saved[0]} ranks at ZeRO stage {saved[1]} with {manifest.optimizer},"
            " whose moments are quantised in blocks that can't be cut anew; this run has"
            f" {asked[0]} ranks at stage {asked[1]}.",
            "Resume with the geometry it was saved with, or start over with --fresh.",
        )
    )


def _clear_away(
    run_dir: RunDir, passed_over: list[store.PassedOver], world: World, device: torch.device
) -> tuple[str, ...]:
    """Free the space of what was never committed, put damaged checkpoints aside. By rank 0.

    Returns what could not be cleared away, and why.
    """
    warnings = []
    if world.is_main_process:
        bad = {one.folder for one in passed_over}
        for folder in run_dir.all_checkpoints:
            # Among the older: a pruning that was cut off.
            if folder in bad or why_incomplete(folder) is not None:
                try:
                    store.clear_away(run_dir, folder)
                except OSError as error:
                    warnings.append(f"{error.filename} stays: {error.strerror}")
    decided_by_main(0, device)  # the others wait
    return tuple(warnings)


def _point_links(run_dir: RunDir, folder: Path, progress: Progress) -> None:
    """Let the links follow what the checkpoint knows; a kill may have come between."""
    store.point(run_dir.latest, folder)
    best_step = progress.stop.best_step
    if best_step is not None and run_dir.checkpoint(best_step) in run_dir.committed:
        store.point(run_dir.best, run_dir.checkpoint(best_step))
