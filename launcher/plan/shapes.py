"""Counts parameters from the headers of a model's files: no torch, no weights are read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from launcher.recipe.heads import HEAD_PATTERNS
from launcher.recipe.schema import FreezeMethod, LoraMethod, Recipe
from launcher.recipe.weight_files import read_header, weight_files

Shapes = dict[str, tuple[int, ...]]
"""Parameter name -> shape; buffers are left out."""

_EMBEDDING = re.compile(r"(^|\.)([^.]*embed[^.]*|wte|wpe|shared)\.weight$")
_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|cls|classifier|score|pre_classifier)\.")
_BUFFER = re.compile(r"(^|\.)(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias)$")
_TRANSPOSED = ("gpt2", "openai-gpt")  # their Conv1D weights are (in, out)


@dataclass(frozen=True)
class Trainable:
    """How much of a model is trained, in parameters."""

    num_parameters: int
    """Of the base model; tied weights count once."""
    num_trainable: int
    """Of the base model and the adapters; a new classification head comes on top."""
    new_head: bool
    """The task adds a head that is not in the model's files."""


def read_shapes(folder: Path) -> Shapes | None:
    """Return the parameters of a model folder; None where it has no safetensors.

    Raises `InputError` as `weight_files` and `read_header` do.
    """
    shapes: Shapes = {}
    for file in weight_files(folder):
        for name, tensor in read_header(file).items():
            if tensor.dtype[0] in "FB" and tensor.dtype != "BOOL" and not _BUFFER.search(name):
                shapes[name] = tensor.shape
    return shapes or None


def count_trainable(recipe: Recipe, shapes: Shapes, config: Mapping[str, Any]) -> Trainable:
    """Return how many parameters the recipe's method trains on a model of these shapes."""
    base = _untied(shapes, config)
    total = _numel(base)
    classifies = recipe.model.task == "sequence-classification"
    patterns = HEAD_PATTERNS[recipe.model.task]
    head_in_files = any(_matches(name, patterns) for name in base)
    return Trainable(
        num_parameters=total,
        num_trainable=_num_trainable(recipe, base, total, config),
        new_head=classifies and not head_in_files,
    )


def _num_trainable(recipe: Recipe, base: Shapes, total: int, config: Mapping[str, Any]) -> int:
    method = recipe.method
    if isinstance(method, LoraMethod):
        saved = {name for name in base if _saved_in_full(name, recipe, method)}
        transposed = config.get("model_type") in _TRANSPOSED
        adapters = sum(
            adapter_size(method, shape[::-1] if transposed else shape)
            for _, shape in targets(method, base, saved)
        )
        return adapters + _numel({name: base[name] for name in saved})
    if isinstance(method, FreezeMethod):
        patterns = method.trainable or HEAD_PATTERNS[recipe.model.task]
        chosen = {name: shape for name, shape in base.items() if _matches(name, patterns)}
        if (
            recipe.model.task == "causal-lm"
            and _tied(config)
            and _matches("lm_head.weight", patterns)
        ):
            # The head is the embedding, whatever the file calls it.
            chosen |= {name: shape for name, shape in base.items() if _is_input_embedding(name)}
        return _numel(chosen)
    return total


def targets(
    method: LoraMethod, shapes: Shapes, saved: set[str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the 2-D weights (out, in) that get an adapter."""
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module == name or len(shape) != 2 or name in saved:
            continue
        if method.target_modules == "all-linear":
            if not _EMBEDDING.search(name) and not _OUTPUT.search(name):
                yield name, shape
        elif any(module == t or module.endswith(f".{t}") for t in method.target_modules):
            yield name, shape


def adapter_size(method: LoraMethod, shape: tuple[int, ...]) -> int:
    """Return the parameters of one adapter on a weight (out, in): A (r, in) and B (out, r)."""
    magnitudes = shape[0] if method.dora else 0
    return method.rank * (shape[0] + shape[1]) + magnitudes


def _saved_in_full(name: str, recipe: Recipe, method: LoraMethod) -> bool:
    if any(f".{module}." in f".{name}" for module in method.modules_to_save):
        return True
    classifies = recipe.model.task == "sequence-classification"
    return classifies and _matches(name, HEAD_PATTERNS[recipe.model.task])


def _untied(shapes: Shapes, config: Mapping[str, Any]) -> Shapes:
    if not _tied(config):
        return shapes
    return {name: shape for name, shape in shapes.items() if not name.endswith("lm_head.weight")}


def _tied(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", False))


def _is_input_embedding(name: str) -> bool:
    return name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight"))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _numel(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
