"""Looks at the run's folder before anything is written: whose it is, and whether it can be used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.errors import InputError, Problem
from launcher.recipe.finding import Place
from launcher.recipe.load import validate
from launcher.recipe.read_yaml import parse_yaml
from launcher.recipe.schema import Recipe
from launcher.run_dir import RunDir

CARRIERS: dict[str, Any] = {"run": {"dir"}, "cluster": True, "logging": True}
"""What may differ between two launches of the same run, as pydantic's `exclude`."""


def check_run_folder(recipe: Recipe, place: Place, *, fresh: bool) -> Iterator[Problem]:
    """Yield why the run can't write to its folder, or (if not `fresh`) would mix with another."""
    run_dir = RunDir(Path(recipe.run.dir) / recipe.run.name)
    yield from _writable(run_dir.root, place("run.dir"))
    if fresh or not run_dir.root.is_dir() or not any(run_dir.root.iterdir()):
        return
    if not run_dir.resolved.is_file():
        message = f"{run_dir.root} is not empty and is not a run of the launcher."
        cure = "Choose another run.name, or empty the folder."
        yield Problem(place("run.name"), "run.name", message, cure)
        return
    yield from _same_recipe(run_dir, recipe, place)


def _writable(folder: Path, place: str) -> Iterator[Problem]:
    """The run's folder, or the nearest one above it that exists, has to be ours to write."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    mode = stat.S_IMODE(existing.stat().st_mode)
    shown = f"{existing.resolve()} (mode {mode:04o})"
    if not existing.is_dir():
        yield Problem(place, "run.dir", f"{existing} is not a folder.")
    elif not mode & 0o222 or not os.access(existing, os.W_OK | os.X_OK):
        # The mode bits as well: to root, and only to root, everything looks writable.
        yield Problem(place, "run.dir", f"{shown} is read-only.", "Choose another run.dir.")
    elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        message = f"{shown} is writable by everyone, who could replace checkpoints."
        yield Problem(place, "run.dir", message, f"chmod o-w {existing}")


def _same_recipe(run_dir: RunDir, recipe: Recipe, place: Place) -> Iterator[Problem]:
    try:
        text = run_dir.resolved.read_text(encoding="utf-8")
        before = validate(parse_yaml(text, str(run_dir.resolved)).plain())
    except (InputError, ValidationError, OSError, UnicodeDecodeError):
        message = f"{run_dir.resolved} is not a recipe that this version can read."
        yield Problem(place("run.name"), "run.name", message, "Choose another run.name.")
        return
    differences = differing_keys(before, recipe)
    if differences:
        shown = "; ".join(f"{key} {old} -> {new}" for key, old, new in differences)
        message = f"{run_dir.root} holds a run of another recipe: {shown}."
        cure = "Choose another run.name (or run with --fresh), or restore these keys to resume it."
        yield Problem(place("run.name"), "run.name", message, cure)


def differing_keys(before: Recipe, after: Recipe) -> list[tuple[str, Any, Any]]:
    """Return (dotted key, old value, new value) wherever two recipes make different runs."""
    old = _flat(before.model_dump(mode="json", exclude=CARRIERS))
    new = _flat(after.model_dump(mode="json", exclude=CARRIERS))
    keys = [*old, *(key for key in new if key not in old)]
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _flat(section: Any, above: str = "") -> dict[str, Any]:
    if isinstance(section, dict):
        pairs = [(str(key), value) for key, value in section.items()]
    elif isinstance(section, list) and any(isinstance(item, dict) for item in section):
        pairs = [(str(index), value) for index, value in enumerate(section)]
    else:
        return {above.rstrip("."): section}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= _flat(value, f"{above}{key}.")
    return flat
