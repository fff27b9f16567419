"""A recipe for launches whose subject is not the model: steps of milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def tiny_recipe(
    topics_recipe: Callable[..., dict[str, Any]], tiny_bert_dir: Path
) -> Callable[..., dict[str, Any]]:
    """Make a recipe, from its sections, that trains the tiny BERT on two ranks."""

    def make(**sections: Any) -> dict[str, Any]:
        model = {"path": str(tiny_bert_dir), **sections.pop("model", {})}
        return topics_recipe(model=model, cluster={"cpu_ranks": 2}, **sections)

    return make
