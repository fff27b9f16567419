"""A right recipe in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.resolve import ResolvedRun, resolve
from tests.support.bad_input import RECIPE

Resolve = Callable[..., ResolvedRun]


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Return a function that resolves the recipe with a DeepSpeed config and overrides."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    config = {"hidden_size": 2048, "max_position_embeddings": 256}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def run(
        *overrides: str,
        deepspeed: Mapping[str, object] | str = "zero2",
        processes: int | None = None,
        consent: Consent = NO_CONSENT,
    ) -> ResolvedRun:
        if isinstance(deepspeed, str):
            overrides = (*overrides, f"deepspeed={deepspeed}")
        else:
            (tmp_path / "ds.json").write_text(json.dumps(deepspeed))
        return resolve("recipe.yaml", overrides, processes, consent=consent)

    return run
