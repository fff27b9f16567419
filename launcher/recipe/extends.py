"""Reads a recipe file and the files that it extends."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.files.read import read_bytes, real, why_unreadable
from launcher.recipe.read_yaml import MAX_BYTES, parse_yaml
from launcher.recipe.tree import Node, merge
from launcher.shipped import find_file, shipped_names

EXTENDS = "extends"


def find_recipe(name: Path | str) -> Path:
    """Return the file of a recipe: relative to where the command is run, else a shipped one."""
    found = find_file(str(name), "recipes", ".yaml")
    if found is None:
        shipped = ", ".join(shipped_names("recipes", ".yaml")) or "none"
        raise InputError(
            Problem(str(name), "", f"no such recipe: {name}", f"(shipped recipes: {shipped})")
        )
    return found


def read_recipe(path: Path, chain: tuple[Path, ...] = ()) -> Node:
    """Return the recipe at `path` laid over what it extends, every value with its place.

    Raises `InputError` where a file is missing, empty, not a mapping, not YAML, or extends itself.
    """
    root = parse_yaml(_read_text(path), display(path))
    if root.value is None:
        raise InputError(Problem(display(path), "", "recipe is empty."))
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else repr(root.value)
        message = f"a recipe is a mapping of sections, got {kind}."
        raise InputError(Problem(root.place, "", message, "Start with `run:`."))
    base = root.value.get(EXTENDS)
    if base is None:
        return root
    own = Node({k: v for k, v in root.value.items() if k != EXTENDS}, root.place)
    base_path = _base_path(base, path)
    chain = (*chain, real(path))
    if real(base_path) in chain:
        names = " -> ".join(display(link) for link in (*chain, base_path))
        raise InputError(Problem(base.place, EXTENDS, f"a recipe extends itself: {names}."))
    return merge(read_recipe(base_path, chain), own)


def _base_path(base: Node, path: Path) -> Path:
    if not isinstance(base.value, str):
        message = f"got {base.plain()!r}, need the name of one recipe file."
        raise InputError(Problem(base.place, EXTENDS, message))
    found = find_file(base.value, "recipes", ".yaml", beside=path.parent)
    if found is None:
        message = f"no such recipe: {base.value} (looked in {display(path.parent)})."
        raise InputError(Problem(base.place, EXTENDS, message))
    return found


def _read_text(path: Path) -> str:
    name = display(path)
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{why_unreadable(error)}."
        raise InputError(Problem(name, "", message, "Save it as UTF-8.")) from error
    except OSError as error:
        problem = Problem(name, "", f"{why_unreadable(error)}.", "Name a recipe, a .yaml file.")
        raise InputError(problem) from error


def display(path: Path) -> str:
    """Return a path as a reader knows it: relative to the current folder where that is shorter."""
    try:
        return str(real(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)
