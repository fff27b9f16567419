"""The run folder at the start of a run, written once by rank 0."""

from __future__ import annotations

import secrets
from typing import Any

import torch.distributed as dist

from launcher.checkpoint.disk import write_json
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.run_settings import run_folder, write_settings
from launcher.recipe.schema import Recipe
from launcher.run_dir import RunDir
from launcher.world import World


def claim_run_folder(resolved: ResolvedRun, data_report: dict[str, Any], world: World) -> RunDir:
    """Write the settings and the data report of the run; all ranks find them there afterwards."""
    run_dir = run_folder(resolved)
    if world.is_main_process:
        write_settings(resolved, run_dir)
        write_json(run_dir.data_report, data_report)
    dist.barrier()
    return run_dir


def wandb_run_id(run_dir: RunDir, recipe: Recipe, world: World) -> str:
    """Return the wandb id of this run, made once and kept in its folder; empty without wandb."""
    if recipe.logging.wandb is None or not world.is_main_process:
        return ""
    path = run_dir.wandb / "run_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()
