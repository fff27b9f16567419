"""Every method at every ZeRO stage trains real weights and exports what the live model answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.training import base_recipe, events, records, run_folder, train

METHODS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "freeze": {"type": "freeze"},
    "lora": {"type": "lora", "rank": 4, "alpha": 8},
    "qlora": {"type": "qlora", "rank": 4, "alpha": 8},
}


def _recipe(
    folder: Path, model: Path, topics: Path, method: str, stage: int, **sections: Any
) -> dict[str, Any]:
    return base_recipe(
        folder,
        model,
        "sequence-classification",
        topics / "train.jsonl",
        method=METHODS[method],
        data={
            "train": [{"path": str(topics / "train.jsonl")}],
            "validation": [{"path": str(topics / "validation.jsonl")}],
            "cache_dir": str(folder.parent / "cache"),
        },
        train={"max_steps": 2, "learning_rate": 1.0e-3},
        evaluate={"every_steps": 1, "micro_batch_size": 8},
        deepspeed=f"zero{stage}",
        **sections,
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", list(METHODS))
def test_trains_and_exports(
    method: str, stage: int, tmp_path: Path, minilm_cut_dir: Path, small_topics: Path
) -> None:
    recipe = _recipe(tmp_path / "run", minilm_cut_dir, small_topics, method, stage)
    reports = train(recipe, tmp_path / "run", 2)
    assert {report.zero_stage for report in reports} == {stage}
    run_dir = run_folder(recipe)
    losses = records(run_dir, "train/loss")
    assert sorted(losses) == [1, 2]
    assert sorted(records(run_dir, "validation/loss")) == [0, 1, 2]
    (start,) = events(run_dir, "start")
    assert (start["engine"], start["zero_stage"]) == ("DeepSpeedEngine", stage)
    whole, here = start["total_parameters"], start["parameters_on_rank"]
    assert (here == whole) == (stage < 3)
    # Of a tensor with an odd number of elements one is padding; another whole tensor is far more.
    assert stage < 3 or whole / 2 <= here < whole / 2 + 30
    assert not events(run_dir, "warning")
    (export,) = events(run_dir, "export")
    assert export["max_logit_difference"] <= export["tolerance"]


def test_qlora_agrees_between_stages(
    tmp_path: Path, smollm2_small_dir: Path, chats_dir: Path
) -> None:
    """Train, evaluate, train, evaluate: an evaluation must not spoil what ZeRO-3 gathers later."""
    rows = {}
    for name in ("train", "validation"):  # 48 conversations of each are enough
        lines = (chats_dir / f"{name}.jsonl").read_text().splitlines(keepends=True)
        rows[name] = tmp_path / f"{name}.jsonl"
        rows[name].write_text("".join(lines[:48]))
    curves = {}
    for stage in (2, 3):
        folder = tmp_path / f"zero{stage}"
        recipe = base_recipe(
            folder,
            smollm2_small_dir,
            "causal-lm",
            rows["train"],
            method=METHODS["qlora"],
            data={
                "train": [{"path": str(rows["train"])}],
                "validation": [{"path": str(rows["validation"])}],
                "cache_dir": str(tmp_path / "cache"),
            },
            train={"max_steps": 4, "learning_rate": 1.0e-3},
            evaluate={"every_steps": 2, "micro_batch_size": 32},
            deepspeed=f"zero{stage}",
        )
        train(recipe, folder, 2)
        run_dir = run_folder(recipe)
        curves[stage] = (records(run_dir, "train/loss"), records(run_dir, "validation/loss"))
    for ours, others in zip(curves[3], curves[2], strict=True):
        assert ours == pytest.approx(others, rel=1e-4)
    validation = curves[2][1]
    assert validation[4] < validation[2] < validation[0]
