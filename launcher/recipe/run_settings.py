"""The settings in a run folder: the recipe as asked, as resolved, and the engine's config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import RunDir


def run_folder(resolved: ResolvedRun) -> RunDir:
    """Return the folder of a resolved run."""
    return RunDir(Path(resolved.recipe.run.dir) / resolved.recipe.run.name)


def write_settings(resolved: ResolvedRun, run_dir: RunDir) -> None:
    """Make the run folder, private to its owner, and write into it what the run is.

    The resolved recipe comes first: a folder that has anything else and not that is no run of ours.
    """
    run_dir.root.mkdir(parents=True, exist_ok=True)
    run_dir.root.chmod(0o700)
    if resolved.source.resolve() != run_dir.resolved.resolve():
        run_dir.resolved.write_text(resolved.to_yaml(), encoding="utf-8")
        shutil.copyfile(resolved.source, run_dir.recipe)
    run_dir.checkpoints.mkdir(exist_ok=True)
    run_dir.ds_config.write_text(json.dumps(resolved.deepspeed, indent=2) + "\n")
