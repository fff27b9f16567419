"""Turns a recipe file and overrides into a valid recipe that knows where its values came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from launcher.errors import InputError, Problem
from launcher.recipe.extends import find_recipe, read_recipe
from launcher.recipe.method_keys import drop_foreign_keys
from launcher.recipe.overrides import apply_overrides
from launcher.recipe.repair import repaired
from launcher.recipe.schema import Recipe
from launcher.recipe.schema_problems import schema_problems
from launcher.recipe.secrets import find_secrets, without
from launcher.recipe.tree import DEFAULT, Node, dotted


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that is valid by itself; cross-field rules and DeepSpeed are not looked at yet."""

    recipe: Recipe
    origins: Mapping[str, str]
    """Dotted key -> `recipe.yaml:12` or `--set key=value`; what is absent is a default."""
    source: Path

    def place(self, key: str) -> str:
        """Return where a key was written; `default` where it is absent."""
        return self.origins.get(key, DEFAULT)


@dataclass(frozen=True)
class Draft:
    """The result of reading a recipe that may have problems: what later checks can still use."""

    loaded: LoadedRecipe | None
    """None when too much is broken to go on; with problems, a recipe with the bad keys mended."""
    root: Node
    problems: tuple[Problem, ...]
    unusable: frozenset[str]
    """Dotted keys whose values in `loaded` are not the user's."""

    def has(self, keys: Iterable[str]) -> bool:
        """Tell whether these keys all hold what the user wrote, or left at its default."""
        return not any(
            key == lost or key.startswith(f"{lost}.") or lost.startswith(f"{key}.")
            for key in keys
            for lost in self.unusable
        )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, merge and validate one recipe; raises one `InputError` with every problem."""
    draft = draft_recipe(path, overrides)
    if draft.problems:
        raise InputError(draft.problems)
    assert draft.loaded is not None
    return draft.loaded


def draft_recipe(path: Path, overrides: Sequence[str] = ()) -> Draft:
    """Read and merge a recipe as far as it goes; only unreadable files raise."""
    source = find_recipe(path)
    root, problems = apply_overrides(read_recipe(source), overrides)
    root = drop_foreign_keys(root)
    secrets = find_secrets(root)
    problems += [problem for _, problem in secrets]
    clean = without(root, [path for path, _ in secrets])
    data = clean.plain()
    unusable: set[str] = {dotted(path) for path, _ in secrets}
    recipe: Recipe | None
    try:
        recipe = validate(data)
    except ValidationError as error:
        # A secret's key was taken out, so that nothing quotes it; it is not missing as well.
        problems += [p for p in schema_problems(error, clean) if p.key not in unusable]
        recipe, mended = repaired(data, error)
        unusable |= mended
    origins = {dotted(path): node.place for path, node in clean.walk() if path}
    loaded = None if recipe is None else LoadedRecipe(recipe, origins, source)
    return Draft(loaded, clean, tuple(problems), frozenset(unusable))


def validate(data: object) -> Recipe:
    """Validate plain data strictly: no text becomes a number, no number a truth value.

    Through JSON, because pydantic's strict mode takes tuples from JSON lists but not from
    Python's.
    """
    return Recipe.model_validate_json(json.dumps(data), strict=True)
