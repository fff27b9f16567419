"""A problem together with the recipe keys that it was concluded from."""

from __future__ import annotations

from collections.abc import Callable

from launcher.errors import Problem

Place = Callable[[str], str]
"""Tells where a dotted recipe key was written: `recipe.yaml:12`, `--set key=value`, `default`."""

Finding = tuple[tuple[str, ...], Problem]
"""Keys and problem: void where one of the keys is itself in error, since it holds a stand-in."""
