"""Looks at the run's folder before anything is written: whose it is, and whether it can be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.errors import InputError, Problem
from launcher.files.read import read_object, read_text
from launcher.recipe.changes import INPUT_KEYS, Change, changes_between, covers, other_architecture
from launcher.recipe.consent import Consent
from launcher.recipe.finding import Finding, Place, nearest_place
from launcher.recipe.folder_access import not_writable, of_another_user
from launcher.recipe.load import validate
from launcher.recipe.model_folder import ModelFacts
from launcher.recipe.read_yaml import parse_yaml
from launcher.recipe.schema import Recipe
from launcher.recipe.schema_problems import did_you_mean
from launcher.run_dir import RunDir

FOLDER_KEYS = ("run.name", "run.dir")
NEW_RUN = "start a new run (another run.name, or --fresh)"


@dataclass(frozen=True)
class Launch:
    """What is about to be started, as far as its folder is concerned."""

    recipe: Recipe
    source: Path
    place: Place
    model: ModelFacts | None
    consent: Consent
    fresh: bool

    @property
    def run_dir(self) -> RunDir:
        """The folder that the recipe names."""
        return RunDir(Path(self.recipe.run.dir) / self.recipe.run.name)

    @property
    def is_from_run_folder(self) -> bool:
        """True where the recipe is one that the run folder itself keeps: resolved, consented to."""
        return self.run_dir.keeps(self.source)


@dataclass(frozen=True)
class FolderState:
    """What was found: problems, and the changes that were allowed."""

    findings: tuple[Finding, ...]
    changes: tuple[Change, ...] = ()


def look_at_run_folder(launch: Launch) -> FolderState:
    """Return why the run can't use its folder, or what it changes in the run that is there."""
    findings: list[Finding] = [(FOLDER_KEYS, problem) for problem in _unusable(launch)]
    before = None if launch.fresh or findings else stored_recipe(launch.run_dir)
    if before is None:
        findings += _nothing_to_change(launch)
        return FolderState(tuple(findings))
    changes = changes_between(before, launch.recipe)
    findings += _refused(launch, before, changes)
    findings += _unnecessary(launch, changes)
    return FolderState(tuple(findings), tuple(changes))


def stored_recipe(run_dir: RunDir) -> Recipe | None:
    """Return the recipe that a run was begun with; None where there is none that can be read."""
    try:
        text = read_text(run_dir.resolved)
        return validate(parse_yaml(text, str(run_dir.resolved)).plain())
    except (InputError, ValidationError, OSError, UnicodeDecodeError):
        return None


def _unusable(launch: Launch) -> Iterator[Problem]:
    run_dir, place = launch.run_dir, launch.place
    yield from not_writable(run_dir.root, place("run.dir"))
    if launch.fresh or not run_dir.root.is_dir() or _is_empty(run_dir):
        return
    if not run_dir.resolved.is_file():
        message = f"{run_dir.root} is not empty and is not a run of the launcher."
        cure = "Choose another run.name, or empty the folder."
        yield Problem(place("run.name"), "run.name", message, cure)
    elif stored_recipe(run_dir) is None:
        message = f"{run_dir.resolved} is not a recipe that this version can read."
        yield Problem(place("run.name"), "run.name", message, "Choose another run.name.")
    elif not launch.consent.trust_checkpoint:
        yield from of_another_user(run_dir, place("run.name"))


def _is_empty(run_dir: RunDir) -> bool:
    """Tell whether nothing is there but what a launch leaves that is killed in its first moment."""
    files = (run_dir.lock, run_dir.resolved, run_dir.meeting_key)
    first = (*(f".{path.name}." for path in files), ".preflight-", run_dir.lock.name)
    first += (run_dir.meeting_key.name, "logs", run_dir.jobs.name)
    return all(path.name.startswith(first) for path in run_dir.root.iterdir())


def _refused(launch: Launch, before: Recipe, changes: Sequence[Change]) -> Iterator[Finding]:
    """Yield one problem for each change that was not allowed, or can't be: together, a diff."""
    is_finished = launch.run_dir.summary.exists()
    for change in changes:
        why_not = change.why_not
        if change.key == "model.path":
            why_not = _other_model(launch, before)
        allowed = any(covers(key, change.key) for key in launch.consent.allow_change)
        if is_finished:
            rule, cure = "and that run is finished.", f"Restore it, or {NEW_RUN}."
        elif why_not:
            rule, cure = f"and can't change: {why_not}.", f"Restore it, or {NEW_RUN}."
        elif not allowed:
            flag = f"--allow-change {change.key}"
            rule, cure = "", f"Restore it, allow it with {flag}, or {NEW_RUN}."
        else:
            continue
        now, then = json.dumps(change.after), json.dumps(change.before)
        message = f"{now}, but the run in {launch.run_dir.root} has {then}"
        message += f", {rule}" if rule else "."
        problem = Problem(nearest_place(launch.place, change.key), change.key, message, cure)
        yield (*FOLDER_KEYS, change.key), problem


def _other_model(launch: Launch, before: Recipe) -> str:
    """Return why the other base model can't take the checkpoints; empty if it can, or who knows."""
    if launch.model is None:
        return ""
    begun_with = _config(Path(before.model.path).expanduser())
    if begun_with is None:
        begun_with = _config(launch.run_dir.model) or {}
        begun_with.pop("vocab_size", None)  # as trained: it may have grown by added tokens
    return other_architecture(begun_with, launch.model.config)


def _config(folder: Path) -> dict[str, Any] | None:
    return read_object(folder / "config.json")


def _unnecessary(launch: Launch, changes: Sequence[Change]) -> Iterator[Finding]:
    """Yield a problem for each key that was allowed and doesn't differ.

    Files can change under a recipe that stays as it is; whether they did is only known once they
    are read. And the recipe of the run folder itself already has what was allowed.
    """
    if launch.is_from_run_folder:
        return
    differing = [change.key for change in changes]
    for allowed in launch.consent.allow_change:
        if allowed in INPUT_KEYS or any(covers(allowed, key) for key in differing):
            continue
        message = f"does not differ from the run in {launch.run_dir.root}."
        listed = (
            f"These do: {', '.join(differing)}." if differing else "Nothing does: leave it out."
        )
        yield _bad_option(allowed, message, f"{did_you_mean(allowed, differing)} {listed}".strip())


def _nothing_to_change(launch: Launch) -> Iterator[Finding]:
    if launch.consent.allow_change and (launch.fresh or not launch.run_dir.resolved.is_file()):
        first = launch.consent.allow_change[0]
        message = "there is no run yet that could change."
        yield _bad_option(first, message, "Leave it out.")


def _bad_option(key: str, message: str, cure: str) -> Finding:
    return (*FOLDER_KEYS, key), Problem("--allow-change", key, message, cure)
