"""Writes a recipe back as YAML in which every key is explicit and says where it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.recipe.read_yaml import parse_scalar
from launcher.recipe.schema import Recipe
from launcher.recipe.tree import DEFAULT

_PLAIN_TEXT = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*\Z")


def to_yaml(recipe: Recipe, origins: Mapping[str, str]) -> str:
    """Return a valid recipe; `origins` (dotted key -> place) become comments at the line's end."""
    lines = _mapping(recipe.model_dump(mode="json"), "", 0, origins)
    return "\n".join(lines) + "\n"


def _mapping(
    section: Mapping[str, Any], above: str, depth: int, origins: Mapping[str, str]
) -> Iterator[str]:
    for name, value in section.items():
        key, indent = f"{above}{name}", "  " * depth
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _mapping(value, f"{key}.", depth + 1, origins)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{indent}{name}:"
            for item in value:
                entries = ", ".join(f"{k}: {_inline(v)}" for k, v in item.items())
                yield f"{indent}  - {{{entries}}}"
        else:
            # A value inside a list or a replaced section was written where that was written.
            place = " ".join(origins.get(key, DEFAULT).split())
            yield f"{indent}{name}: {_inline(value)}  # {place}"


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    if isinstance(value, str):
        plain = _PLAIN_TEXT.match(value) and isinstance(parse_scalar(value), str)
        return value if plain else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Return a YAML double-quoted scalar: JSON's, with what YAML takes for a line break escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
