"""Other precisions, optimizers and memory savers on real ranks: they train, and to the same end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.run_dir import RunDir
from tests.support.ranks import RanksFailed
from tests.support.training import (
    NO_DROPOUT,
    Runs,
    base_recipe,
    copy_model,
    events,
    records,
)


@pytest.fixture(scope="module")
def steady_model(minilm_cut_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM without dropout, so that two runs differ by what is tested only."""
    return copy_model(minilm_cut_dir, tmp_path_factory.mktemp("model") / "minilm", **NO_DROPOUT)


LossesOf = Callable[..., dict[int, float]]


@pytest.fixture
def losses_of(tmp_path: Path, steady_model: Path, small_topics: Path, runs: Runs) -> LossesOf:
    """Train with these sections of the recipe, and return the losses by step."""
    rows = small_topics / "train.jsonl"
    recipe_of = partial(base_recipe, tmp_path, steady_model, "sequence-classification", rows)

    def losses(**sections: Any) -> dict[int, float]:
        return losses_of_run(runs.trained(recipe_of(**sections))[0])

    return losses


def losses_of_run(run_dir: RunDir) -> dict[int, float]:
    assert not events(run_dir, "warning")
    assert len(events(run_dir, "export")) == 1
    return records(run_dir, "train/loss")


@pytest.fixture
def reference(losses_of: LossesOf) -> dict[int, float]:
    """Losses in float32 at ZeRO-2 with torch's AdamW."""
    return losses_of()


def test_bfloat16_at_all_stages(losses_of: LossesOf, reference: dict[int, float]) -> None:
    """Stages differ by rounding only: a miscounted Adam step would show as 4e-3."""
    curves = {
        stage: losses_of(model={"dtype": "bfloat16"}, deepspeed=f"zero{stage}")
        for stage in (0, 1, 2, 3)
    }
    for losses in curves.values():
        assert losses == pytest.approx(curves[2], rel=1e-3)
        assert losses == pytest.approx(reference, rel=0.02)
        assert losses != pytest.approx(reference, rel=1e-6)  # it really was another precision


def test_float16_is_refused_where_it_cannot_be_computed(losses_of: LossesOf) -> None:
    from deepspeed.accelerator import get_accelerator

    sections = {"model": {"dtype": "float16"}}
    if get_accelerator().is_fp16_supported():
        assert len(losses_of(**sections)) == 4
        return
    with pytest.raises(RanksFailed, match=r'model\.dtype: "float16" can\'t be computed'):
        losses_of(**sections)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("stage", [2, 3])
def test_gradient_checkpointing_changes_nothing(
    method: str, stage: int, losses_of: LossesOf
) -> None:
    sections = {"method": {"type": method}, "deepspeed": f"zero{stage}"}
    kept = losses_of(**sections)
    computed_again = losses_of(model={"gradient_checkpointing": True}, **sections)
    assert kept == pytest.approx(computed_again, rel=1e-6)


def test_offload_changes_nothing(losses_of: LossesOf, reference: dict[int, float]) -> None:
    assert losses_of(deepspeed="zero3_offload") == pytest.approx(reference, rel=1e-5)


def test_eight_bit_adamw(losses_of: LossesOf, reference: dict[int, float]) -> None:
    """Quantised moments change the updates a little, and so the losses after the first step."""
    losses = losses_of(train={"optimizer": "adamw_8bit"})
    assert losses[1] == reference[1]
    assert losses == pytest.approx(reference, rel=0.02)
    assert losses != reference
