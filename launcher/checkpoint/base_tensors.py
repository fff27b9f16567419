"""Tensors of the base model's own files, to see whether training changed anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from launcher.checkpoint.consolidate import LazyTensor
from launcher.files.read import read_json
from launcher.recipe.schema import Recipe
from launcher.recipe.weight_files import MAX_HEADER_BYTES


def base_files(recipe: Recipe) -> dict[str, Path]:
    """Return the file of each tensor of the base checkpoint, by name."""
    single = _find(recipe, SAFE_WEIGHTS_NAME)
    if single is not None:
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    index = _find(recipe, SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        return {}
    weight_map: dict[str, str] = read_json(index, MAX_HEADER_BYTES)["weight_map"]
    return {name: index.parent / file for name, file in weight_map.items()}


def any_changed(
    recipe: Recipe,
    trained: Mapping[str, LazyTensor],
    prefix: str,
    dtype: torch.dtype,
) -> bool:
    """Tell whether a trained tensor differs from the base model, as stored in `dtype`.

    A tensor that the base lacks (a new head), or whose shape grew, counts as changed.
    """
    files = base_files(recipe)
    for name, tensor in trained.items():
        source = name if name in files else name.removeprefix(f"{prefix}.")
        if source not in files:
            return True
        before = _read(files[source], source)
        after = tensor.load()
        if before.shape != after.shape or not torch.equal(before.to(dtype), after.to(dtype)):
            return True
    return False


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _find(recipe: Recipe, name: str) -> Path | None:
    found = cached_file(
        recipe.model.path,
        name,
        revision=recipe.model.revision,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
    )
    return None if found is None else Path(found)
