"""A problem together with the recipe keys that it was concluded from."""

from __future__ import annotations

from collections.abc import Callable

from launcher.errors import Problem
from launcher.recipe.tree import DEFAULT

Place = Callable[[str], str]
"""Tells where a dotted recipe key was written: `recipe.yaml:12`, `--set key=value`, `default`."""

Finding = tuple[tuple[str, ...], Problem]
"""Keys and problem: void where one of the keys is itself in error, since it holds a stand-in."""


def nearest_place(place: Place, key: str) -> str:
    """Return where a key, or else the section it is missing from, was written."""
    while "." in key and place(key) == DEFAULT:
        key = key.rpartition(".")[0]
    return place(key)
