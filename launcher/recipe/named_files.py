"""Small files that a recipe names, read once; a run keeps copies beside its resolved recipe.

The resolved recipe is read again by the preparation, each node and each rank, after every restart
and requeue. A copy of what it names lies beside it, so that a file edited or deleted since changes
nothing. Data, models and tokenizers are too large to copy: their digests are compared instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.files.read import read_bytes, why_unreadable
from launcher.files.remove import remove_file
from launcher.files.write import replace_durably
from launcher.recipe.deepspeed_json import find_deepspeed
from launcher.recipe.extends import display
from launcher.recipe.finding import Finding, Place
from launcher.recipe.schema import Recipe
from launcher.run_dir import CHAT_TEMPLATE, COPIES, DEEPSPEED, RunDir, is_kept_recipe

OVERRIDE = "--set "


@dataclass(frozen=True)
class NamedFile:
    """A file as it was read."""

    path: Path
    data: bytes


def read_named_files(
    recipe: Recipe, source: Path, place: Place
) -> tuple[dict[str, NamedFile], list[Finding]]:
    """Return the files that a recipe names, by recipe key, and a problem for each unreadable one.

    `source`: the recipe file. If a run folder keeps it, the copies beside it are read, except for
    keys that an override has set since. That also holds where the recipe has got another run.name.
    """
    is_kept = RunDir(Path(recipe.run.dir) / recipe.run.name).keeps(source) or is_kept_recipe(source)
    files: dict[str, NamedFile] = {}
    findings: list[Finding] = []
    for key, name in ((DEEPSPEED, recipe.deepspeed), (CHAT_TEMPLATE, recipe.model.chat_template)):
        if name is None:
            continue
        try:
            if is_kept and not place(key).startswith(OVERRIDE):
                files[key] = _read_copy(source.with_name(COPIES[key]), key)
            else:
                files[key] = _read_named(key, name, place(key))
        except InputError as error:
            findings += [((key,), problem) for problem in error.problems]
    return files, findings


def keep_copies(files: Mapping[str, NamedFile], folder: Path) -> None:
    """Write a copy of each file into a folder, unless it is there."""
    for key, file in files.items():
        copy = folder / COPIES[key]
        if not copy.is_file():
            replace_durably(copy, file.data)


def remove_other_copies(files: Mapping[str, NamedFile], folder: Path) -> None:
    """Remove copies of other files than these, before the resolved recipe that names these.

    After a kill between the two a copy is missing and refused; an old one would be trained with.
    """
    for key, name in COPIES.items():
        copy = folder / name
        if not copy.is_file() or (key in files and _same(copy, files[key].data)):
            continue
        remove_file(copy, within=folder)


def _same(copy: Path, data: bytes) -> bool:
    try:
        return read_bytes(copy) == data
    except OSError:
        return False


def _read_copy(path: Path, key: str) -> NamedFile:
    try:
        return NamedFile(path, read_bytes(path))
    except OSError as error:
        message = f"the run's copy of the file {why_unreadable(error)}."
        cure = f"Start from your own recipe, or set the key: --set {key}=FILE."
        raise InputError(Problem(display(path), key, message, cure)) from error


def _read_named(key: str, name: str, place: str) -> NamedFile:
    path = find_deepspeed(name, place) if key == DEEPSPEED else Path(name).expanduser()
    try:
        return NamedFile(path, read_bytes(path))
    except OSError as error:
        message = f"{display(path)} {why_unreadable(error)}."
        cure = f"Correct the path; it is relative to {Path.cwd()}."
        raise InputError(Problem(place, key, message, cure)) from error
