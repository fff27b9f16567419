"""Applies `--set key=value` to a recipe before it is validated."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.errors import InputError, Problem
from launcher.recipe.read_yaml import parse_yaml
from launcher.recipe.secrets import is_secret, redact
from launcher.recipe.tree import KeyPath, Node, dotted, set_at


def apply_overrides(root: Node, overrides: Sequence[str]) -> tuple[Node, list[Problem]]:
    """Return the recipe with the overrides laid over it in order, and what was wrong with them."""
    problems: list[Problem] = []
    for override in overrides:
        try:
            root = _apply(root, override)
        except InputError as error:
            problems += error.problems
    return root, problems


def _apply(root: Node, override: str) -> Node:
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        message = f"got {redact(override)!r}, need key=value."
        raise InputError(Problem("--set", "", message, "Example: --set train.learning_rate=1e-5"))
    place = f"--set {key.strip()}={'****' if is_secret(path, text) else redact(text)}"
    leaf = parse_yaml(text, place, place=place)
    try:
        return set_at(root, path, leaf)
    except KeyError as error:
        raise InputError(_no_such_path(root, path, place, str(error.args[0]))) from error


def _no_such_path(root: Node, path: KeyPath, place: str, failed: str) -> Problem:
    above: KeyPath = path[: path.index(failed)]
    node: Node | None = root
    for part in above:
        node = node.child(int(part) if isinstance(node.value, list) else part) if node else None
    if node is not None and isinstance(node.value, list):
        size = len(node.value)
        message = f"{dotted(above)} is a list of {size}, so {failed!r} is not one of its places."
        return Problem(place, dotted(path), message, f"Use 0 to {size - 1}, or set the whole list.")
    return Problem(place, dotted(path), f"{dotted(above)} is not a section.")
