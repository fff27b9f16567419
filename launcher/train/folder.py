"""The run folder at the start of a run, written once by rank 0."""

from __future__ import annotations

import secrets
from typing import Any

import torch
import torch.distributed as dist

from launcher.errors import InputError, Problem
from launcher.files.read import read_text
from launcher.files.write import ensure_folder, replace_text, write_json
from launcher.lock import hold
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.run_settings import run_folder, write_settings
from launcher.recipe.schema import Recipe
from launcher.run_dir import RunDir
from launcher.train.agree import decided_by_main
from launcher.world import World


def claim_run_folder(
    resolved: ResolvedRun, data_report: dict[str, Any], world: World, device: torch.device
) -> RunDir:
    """Write the settings and the data report of the run; all ranks find them there afterwards.

    Raises:
        InputError: another launch holds the folder.
    """
    run_dir = run_folder(resolved)
    refused = _hold(run_dir, world)
    if decided_by_main(int(refused is not None), device):
        raise refused or InputError(Problem(str(run_dir.root), "", "rank 0 was refused it."))
    if world.is_main_process:
        write_settings(resolved, run_dir)
        write_json(run_dir.data_report, data_report)
    dist.barrier()
    return run_dir


def _hold(run_dir: RunDir, world: World) -> InputError | None:
    """Let rank 0 take the lock of the folder where no `launcher run` holds it for all ranks."""
    if not world.is_main_process or world.logs is not None:
        return None
    try:
        hold(run_dir.lock, "accelerate launch")
    except InputError as error:
        return error
    run_dir.take_back_stop()  # one that came too late for the last launch
    return None


def wandb_run_id(run_dir: RunDir, recipe: Recipe, world: World) -> str:
    """Return the wandb id of this run, made once and kept in its folder; empty without wandb."""
    if recipe.logging.wandb is None or not world.is_main_process:
        return ""
    path = run_dir.wandb / "run_id"
    if not path.exists():
        ensure_folder(path.parent)
        replace_text(path, secrets.token_hex(4))
    return read_text(path)
