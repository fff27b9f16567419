"""A run saved on N ranks at one ZeRO stage goes on on M ranks at another as if nothing happened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.ranks import RanksFailed
from tests.support.training import (
    NO_DROPOUT,
    RankReport,
    Runs,
    base_recipe,
    copy_model,
    events,
    records,
    run_folder,
    train,
)

METHODS = {"full": {"type": "full"}, "lora": {"type": "lora", "rank": 4, "alpha": 8}}


class Leg(NamedTuple):
    """A part of a run: its ranks, its ZeRO stage and micro-batch, and where it is cut off."""

    world_size: int
    stage: int
    micro_batch_size: int
    kill_after: int | None


def recipe_of(
    folder: Path, model: Path, topics: Path, method: str, leg: Leg, dtype: str
) -> dict[str, Any]:
    return base_recipe(
        folder,
        model,
        "sequence-classification",
        topics / "train.jsonl",
        model={"path": str(model), "task": "sequence-classification", "dtype": dtype},
        method=METHODS[method],
        data={
            "train": [{"path": str(topics / "train.jsonl")}],
            "validation": [{"path": str(topics / "validation.jsonl")}],
            "cache_dir": str(folder.parent / "cache"),
        },
        train={
            "max_steps": 8,
            "warmup_steps": 2,
            "learning_rate": 1.0e-3,
            "micro_batch_size": leg.micro_batch_size,
        },
        evaluate={"every_steps": 2, "micro_batch_size": 16},
        checkpoint={"every_steps": 2, "asynchronous": False},
        deepspeed=f"zero{leg.stage}",
    )


@pytest.fixture(scope="module")
def steady_model(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dropout draws from (seed, step, rank), so only without it are two geometries one run."""
    return copy_model(tiny_bert_dir, tmp_path_factory.mktemp("steady") / "model", **NO_DROPOUT)


PATHS = {
    "2-1-2": [Leg(2, 2, 4, 3), Leg(1, 2, 8, 5), Leg(2, 2, 2, None)],
    "1-2": [Leg(1, 3, 4, 5), Leg(2, 3, 4, None)],
    "2-4": [Leg(2, 3, 4, 5), Leg(4, 3, 2, None)],
    "zero2-zero3": [Leg(2, 2, 4, 5), Leg(2, 3, 4, None)],
    "zero3-zero0-zero1": [Leg(2, 3, 4, 3), Leg(2, 0, 4, 5), Leg(2, 1, 4, None)],
}


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("path", PATHS)
def test_another_geometry_is_the_same_run(
    path: str, method: str, tmp_path: Path, steady_model: Path, small_topics: Path, runs: Runs
) -> None:
    legs = PATHS[path]
    recipe = recipe_of(tmp_path, steady_model, small_topics, method, legs[0], "float32")
    whole, reference = runs.trained(recipe, legs[0].world_size)
    reports: list[RankReport] = []
    for leg in legs:
        torn = recipe_of(tmp_path / "torn", steady_model, small_topics, method, leg, "float32")
        reports = train(torn, tmp_path / "torn", leg.world_size, kill_after=leg.kill_after)
        assert {report.zero_stage for report in reports} == {leg.stage}

    for key in ("train/loss", "grad_norm", "learning_rate", "validation/loss"):
        expected, found = records(whole, key), records(run_folder(torn), key)
        assert found == pytest.approx(expected, rel=1e-5), key
        assert len(found) >= 4
    last = len(reports[0].sample_ids)
    assert last == 8 - legs[-2].kill_after // 2 * 2  # from the checkpoint before the cut
    assert reports[0].sample_ids == reference[0].sample_ids[-last:]
    resumes = events(run_folder(torn), "resume")
    assert [event["resharded"] for event in resumes] == [True] * (len(legs) - 1)
    assert [event["resumed_by"] for event in resumes] == [
        f"{leg.world_size} ranks at ZeRO stage {leg.stage}" for leg in legs[1:]
    ]


@pytest.mark.parametrize("stages", [(0, 2), (2, 3), (3, 1)])
def test_sixteen_bits_keep_their_masters(
    stages: tuple[int, int], tmp_path: Path, steady_model: Path, small_topics: Path, runs: Runs
) -> None:
    """What is saved are float32 masters, so the weights are the same to the bit.

    Losses are too between stages 0 to 2; ZeRO-3's linear layers round once more before they add the
    bias (`memory_efficient_linear`), which bf16 shows.
    """
    legs = [Leg(2, stages[0], 4, 5), Leg(2, stages[1], 4, None)]
    recipe = recipe_of(tmp_path, steady_model, small_topics, "full", legs[0], "bfloat16")
    whole, _ = runs.trained(recipe)
    for leg in legs:
        torn = recipe_of(tmp_path / "torn", steady_model, small_topics, "full", leg, "bfloat16")
        train(torn, tmp_path / "torn", 2, kill_after=leg.kill_after)
    expected = records(whole, "train/loss")
    found = records(run_folder(torn), "train/loss")
    assert found == (expected if 3 not in stages else pytest.approx(expected, rel=1e-4))
    assert len(found) == 8


def test_block_quantised_moments_stay_where_they_are(
    tmp_path: Path, steady_model: Path, small_topics: Path, runs: Runs
) -> None:
    """8-bit AdamW: resumed bitwise on the same ranks, and refused on others before it loads."""
    leg = Leg(2, 2, 4, None)
    recipe = recipe_of(tmp_path, steady_model, small_topics, "full", leg, "float32")
    recipe["train"]["optimizer"] = "adamw_8bit"
    whole, _ = runs.trained(recipe)
    train(recipe, tmp_path, 2, kill_after=5)
    with pytest.raises(RanksFailed, match="can't be cut anew"):
        train(recipe, tmp_path, 1)
    train(recipe, tmp_path, 2)
    torn = run_folder(recipe)
    assert len(events(torn, "start")) == 2
    assert records(torn, "train/loss") == records(whole, "train/loss")


def test_no_memory_for_a_copy_is_no_end(
    tmp_path: Path, steady_model: Path, small_topics: Path, runs: Runs
) -> None:
    """Where one rank has no room for its copy, all write the live state, and it is said."""
    leg = Leg(2, 3, 4, None)
    recipe = recipe_of(tmp_path, steady_model, small_topics, "full", leg, "float32")
    recipe["checkpoint"] = {"every_steps": 2}
    whole, _ = runs.trained(recipe)
    train(recipe, tmp_path, 2, sabotage=no_room_on_rank_1)
    tight = run_folder(recipe)
    for run_dir in (whole, tight):
        assert [event["step"] for event in events(run_dir, "checkpoint")] == [2, 4, 6, 8]
    assert records(tight, "train/loss") == records(whole, "train/loss")
    assert not [e for e in events(whole, "warning") if "copy" in e["message"]]
    (warning,) = (e for e in events(tight, "warning") if "copy" in e["message"])
    assert "checkpoint.asynchronous: false" in warning["message"]


def no_room_on_rank_1() -> None:
    from launcher.train import snapshot

    if os.environ["RANK"] == "1":
        snapshot.MAX_SHARE_OF_FREE_MEMORY = 0.0
