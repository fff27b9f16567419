"""Editors get every key with its documentation, as pydantic's own slow way would collect it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from launcher.recipe import schema
from launcher.recipe.json_schema import recipe_json_schema


def descriptions(document: dict[str, Any]) -> dict[str, str]:
    sections = {**document["$defs"], "Recipe": document}
    return {
        f"{name}.{key}": entry.get("description", "")
        for name, section in sections.items()
        for key, entry in section["properties"].items()
    }


def test_every_key_is_described() -> None:
    missing = [key for key, text in descriptions(recipe_json_schema()).items() if not text]
    assert missing == []


def test_descriptions_are_those_that_pydantic_finds(tmp_path: Path) -> None:
    source = Path(schema.__file__).read_text()
    slow = tmp_path / "slow_schema.py"
    slow.write_text(source.replace("ConfigDict(", "ConfigDict(use_attribute_docstrings=True, "))
    spec = importlib.util.spec_from_file_location("slow_schema", slow)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["slow_schema"] = module
    spec.loader.exec_module(module)
    theirs = descriptions(module.Recipe.model_json_schema())
    ours = descriptions(recipe_json_schema())
    written = {key: " ".join(text.split()) for key, text in theirs.items() if text}
    assert len(written) > 80
    assert {key: ours[key] for key in written} == written


def test_the_schema_allows_what_the_loader_takes_and_says_how_to_use_it() -> None:
    document = recipe_json_schema()
    assert "yaml-language-server" in document["$comment"]
    assert "extends" in document["properties"]
    assert document["additionalProperties"] is False
    assert document["properties"]["method"]["discriminator"]["propertyName"] == "type"


def test_what_a_failure_does_is_part_of_the_schema_with_its_default() -> None:
    document = recipe_json_schema()
    sections = document["$defs"]
    found = {
        f"{section}.{key}": sections[f"{section.title()}Section"]["properties"][key]["default"]
        for section, key in (
            ("run", "max_hours"),
            ("run", "max_restarts"),
            ("run", "timeout_seconds"),
            ("run", "grace_seconds"),
            ("train", "non_finite"),
            ("train", "max_skipped_steps"),
            ("checkpoint", "if_save_fails"),
            ("checkpoint", "asynchronous"),
        )
    }
    assert found == {
        "run.max_hours": None,
        "run.max_restarts": 3,
        "run.timeout_seconds": 1800,
        "run.grace_seconds": None,
        "train.non_finite": "stop",
        "train.max_skipped_steps": 20,
        "checkpoint.if_save_fails": "continue",
        "checkpoint.asynchronous": True,
    }
    assert sections["TrainSection"]["properties"]["non_finite"]["enum"] == ["stop", "skip"]
