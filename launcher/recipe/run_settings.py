"""The settings in a run folder: the recipe as asked, as resolved, and the engine's config."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from launcher.files.read import read_bytes, real
from launcher.files.write import append_durably, ensure_folder, replace_durably, replace_text
from launcher.recipe.named_files import keep_copies, remove_other_copies
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.run_folder import stored_recipe
from launcher.run_dir import RunDir


def run_folder(resolved: ResolvedRun) -> RunDir:
    """Return the folder of a resolved run."""
    return RunDir(Path(resolved.recipe.run.dir) / resolved.recipe.run.name)


def write_settings(resolved: ResolvedRun, run_dir: RunDir) -> None:
    """Make the run folder, private to its owner, and write into it what the run is.

    The resolved recipe comes first: a folder that has anything else and not that is no run of ours.
    It is written whole or not at all, since a torn one would lock the run out of its folder.
    """
    ensure_folder(run_dir.root)
    if run_dir.root.stat().st_uid == os.geteuid():
        run_dir.root.chmod(0o700)
    if resolved.changes:
        _keep_changes(resolved, run_dir)
    source = real(resolved.source)
    is_kept = run_dir.keeps(source)
    remove_other_copies(resolved.files, run_dir.root)
    if not is_kept or stored_recipe(run_dir) != resolved.recipe:
        replace_durably(run_dir.resolved, resolved.to_yaml().encode())
    keep_copies(resolved.files, run_dir.root)
    if not is_kept and source != real(run_dir.recipe):
        replace_durably(run_dir.recipe, read_bytes(source))
    ensure_folder(run_dir.checkpoints)
    replace_text(run_dir.ds_config, json.dumps(resolved.deepspeed, indent=2) + "\n")


def _keep_changes(resolved: ResolvedRun, run_dir: RunDir) -> None:
    """Append to `changes.jsonl` what is about to be overwritten in the resolved recipe."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = (json.dumps({"time": now, **asdict(change)}) for change in resolved.changes)
    append_durably(run_dir.changes, lines)
