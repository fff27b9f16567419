"""Other precisions, optimizers and memory savers on real ranks: they train, and to the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import RanksFailed
from tests.support.training import (
    NO_DROPOUT,
    base_recipe,
    copy_model,
    events,
    records,
    run_folder,
    train,
)


@pytest.fixture(scope="module")
def steady_model(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM without dropout, so that two runs differ by what is tested only."""
    return copy_model(minilm_dir, tmp_path_factory.mktemp("model") / "minilm", **NO_DROPOUT)


def losses_of(folder: Path, model: Path, topics: Path, /, **sections: Any) -> dict[int, float]:
    recipe = base_recipe(
        folder, model, "sequence-classification", topics / "train.jsonl", **sections
    )
    train(recipe, folder, 2)
    run_dir = run_folder(recipe)
    assert not events(run_dir, "warning")
    assert len(events(run_dir, "export")) == 1
    return records(run_dir, "train/loss")


@pytest.fixture(scope="module")
def reference(
    steady_model: Path, small_topics: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    """Losses in float32 at ZeRO-2 with torch's AdamW."""
    return losses_of(tmp_path_factory.mktemp("reference"), steady_model, small_topics)


def test_bfloat16_at_all_stages(
    tmp_path: Path, steady_model: Path, small_topics: Path, reference: dict[int, float]
) -> None:
    """Stages differ by rounding only: a miscounted Adam step would show as 4e-3."""
    curves = {
        stage: losses_of(
            tmp_path / f"zero{stage}",
            steady_model,
            small_topics,
            model={"dtype": "bfloat16"},
            deepspeed=f"zero{stage}",
        )
        for stage in (0, 1, 2, 3)
    }
    for losses in curves.values():
        assert losses == pytest.approx(curves[2], rel=1e-3)
        assert losses == pytest.approx(reference, rel=0.02)
        assert losses != pytest.approx(reference, rel=1e-6)  # it really was another precision


def test_float16_is_refused_where_it_cannot_be_computed(
    tmp_path: Path, steady_model: Path, small_topics: Path
) -> None:
    from deepspeed.accelerator import get_accelerator

    sections = {"model": {"dtype": "float16"}}
    if get_accelerator().is_fp16_supported():
        assert len(losses_of(tmp_path, steady_model, small_topics, **sections)) == 4
        return
    with pytest.raises(RanksFailed, match=r'model\.dtype: "float16" can\'t be computed'):
        losses_of(tmp_path, steady_model, small_topics, **sections)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("stage", [2, 3])
def test_gradient_checkpointing_changes_nothing(
    method: str, stage: int, tmp_path: Path, steady_model: Path, small_topics: Path
) -> None:
    curves = []
    for checkpointing in (False, True):
        folder = tmp_path / str(checkpointing)
        curves.append(
            losses_of(
                folder,
                steady_model,
                small_topics,
                model={"gradient_checkpointing": checkpointing},
                method={"type": method},
                deepspeed=f"zero{stage}",
            )
        )
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_offload_changes_nothing(
    tmp_path: Path, steady_model: Path, small_topics: Path, reference: dict[int, float]
) -> None:
    losses = losses_of(tmp_path, steady_model, small_topics, deepspeed="zero3_offload")
    assert losses == pytest.approx(reference, rel=1e-5)


def test_eight_bit_adamw(
    tmp_path: Path, steady_model: Path, small_topics: Path, reference: dict[int, float]
) -> None:
    """Quantised moments change the updates a little, and so the losses after the first step."""
    sizes = {"optimizer": "adamw_8bit"}
    losses = losses_of(tmp_path, steady_model, small_topics, train=sizes)
    assert losses[1] == reference[1]
    assert losses == pytest.approx(reference, rel=0.02)
    assert losses != reference
