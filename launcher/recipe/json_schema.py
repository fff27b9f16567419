"""JSON Schema of the recipe, with the documentation of every key, for editors."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
from typing import Any

from launcher.files.read import read_text
from launcher.recipe import schema

HEADER = (
    "Save this as recipe.schema.json and open a recipe with the line "
    "`# yaml-language-server: $schema=recipe.schema.json` (VS Code's YAML extension, Neovim, "
    "Helix, Emacs), or map it to recipes/*.yaml in the settings of your editor (JetBrains: "
    "Languages & Frameworks > Schemas and DTDs > JSON Schema Mappings)."
)
_EXTENDS = {
    "type": "string",
    "title": "Extends",
    "description": "Another recipe that this one is laid over; relative to this file.",
}


def recipe_json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a recipe file, with `extends`."""
    document = schema.Recipe.model_json_schema()
    documents = documentation()
    sections = document["$defs"]
    for name, definition in sections.items():
        _describe(definition, documents[name], sections)
    _describe(document, documents["Recipe"], sections)
    document["properties"] = {"extends": _EXTENDS, **document["properties"]}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": HEADER,
        "title": "Recipe of the launcher",
    }
    return {**head, **{key: value for key, value in document.items() if key != "title"}}


def documentation() -> dict[str, dict[str, str]]:
    """Return section class -> key -> the text beneath it in the source; inherited keys included."""
    source = read_text(Path(schema.__file__))
    found: dict[str, dict[str, str]] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef):
            inherited: dict[str, str] = {}
            for base in statement.bases:
                inherited |= found.get(base.id, {}) if isinstance(base, ast.Name) else {}
            found[statement.name] = inherited | _texts_beneath(statement.body)
    return found


def _texts_beneath(body: list[ast.stmt]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for field, below in pairwise(body):
        is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if not (is_field and isinstance(below, ast.Expr)):
            continue
        value = below.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            assert isinstance(field, ast.AnnAssign)
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = " ".join(value.value.split())
    return texts


def _describe(
    definition: dict[str, Any], texts: dict[str, str], sections: dict[str, dict[str, Any]]
) -> None:
    """Describe each key by the text beneath it; a section without one, by its own first line."""
    for key, entry in definition["properties"].items():
        section = sections.get(str(entry.get("$ref", "")).rpartition("/")[2], {})
        text = texts.get(key) or section.get("description")
        if text:
            entry["description"] = text
