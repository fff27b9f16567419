"""Mends an invalid recipe just enough that the remaining rules can still be checked.

A user with a typo in one section and a wrong batch size in another shall read of both at once.
"""

from __future__ import annotations

import copy
from typing import Any

from pydantic import ValidationError

from launcher.recipe.schema import Recipe
from launcher.recipe.schema_problems import real_path
from launcher.recipe.tree import KeyPath, dotted

# Stands in for required values that are missing or wrong; no rule reads them (see `Draft`).
_PLACEHOLDER: dict[str, Any] = {
    "run": {"name": "placeholder"},
    "model": {"path": "placeholder", "task": "causal-lm"},
    "method": {"type": "full"},
    "data": {"train": [{"path": "placeholder"}]},
    "train": {"global_batch_size": 1, "micro_batch_size": 1},
    "deepspeed": "zero0",
}
_ROUNDS = 3  # mending can uncover a missing required key, whose section then goes too


def repaired(data: Any, error: ValidationError) -> tuple[Recipe | None, set[str]]:
    """Return a valid recipe without the values in `error`, and the keys that are not the user's.

    None where even that does not validate.
    """
    if not isinstance(data, dict):
        return None, set()
    data = copy.deepcopy(data)
    mended: set[str] = set()
    current: ValidationError = error
    for _ in range(_ROUNDS):
        for detail in current.errors(include_url=False, include_input=False):
            path = _droppable(real_path(detail["loc"], detail["type"]), detail["type"])
            mended.add(dotted(path))
            _drop(data, path)
        mended |= _fill(data, _PLACEHOLDER)
        try:
            return Recipe.model_validate(data), mended
        except ValidationError as still:
            current = still
    return None, mended


def _droppable(path: KeyPath, kind: str) -> KeyPath:
    """Return what to drop for one error: an optional key itself, else what it makes useless."""
    if path[:1] == ("method",) and path[1:2] == ("type",):
        return ("method",)
    if kind == "missing" and dotted(path) == "logging.wandb.project":
        return path[:-1]
    first_index = next((i for i, part in enumerate(path) if isinstance(part, int)), len(path))
    return path[:first_index]


def _drop(data: Any, path: KeyPath) -> None:
    for part in path[:-1]:
        data = data.get(part) if isinstance(data, dict) else None
    if isinstance(data, dict) and path:
        data.pop(path[-1], None)


def _fill(data: dict[str, Any], placeholder: dict[str, Any], above: str = "") -> set[str]:
    filled: set[str] = set()
    for key, value in placeholder.items():
        name = f"{above}{key}"
        if key not in data or (isinstance(value, dict) and not isinstance(data[key], dict)):
            data[key] = copy.deepcopy(value)
            filled.add(name)
        elif isinstance(value, dict) and key != "method":
            filled |= _fill(data[key], value, f"{name}.")
    return filled
