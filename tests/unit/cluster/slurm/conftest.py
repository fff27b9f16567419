"""A right recipe, resolved in a folder of its own, with the variables of one shell."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster.slurm.options import Wanted
from launcher.cluster.slurm.site import load_site
from launcher.recipe.resolve import resolve
from tests.support.bad_input import RECIPE

BATCH = ("deepspeed=zero2", "train.micro_batch_size=1", "train.global_batch_size=96")
MakeWanted = Callable[..., Wanted]


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWanted:
    """Return a function that joins the recipe (with overrides) and a site file (as text)."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    (tmp_path / "model").mkdir()
    config = {"hidden_size": 2048, "max_position_embeddings": 256}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def make(*overrides: str, site: str = "") -> Wanted:
        (tmp_path / "site.yaml").write_text(site)
        resolved = resolve("recipe.yaml", (*BATCH, *overrides))
        return Wanted(resolved, load_site(tmp_path / "site.yaml"))

    return make
