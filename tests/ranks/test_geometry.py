"""The same recipe on other ranks, micro-batches and accumulation is the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import (
    RankReport,
    base_recipe,
    records,
    run_folder,
    train,
    write_jsonl,
)

GEOMETRIES = {"1x8": (1, 8), "2x4": (2, 4), "2x2x2": (2, 2)}
NUM_ROWS = 21  # two full windows of 8 and a short one of 5, which no geometry divides


@pytest.fixture(scope="module")
def skewed_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and completions of 2 to about 60 tokens: means of means would be far off."""
    rows = [
        {"prompt": f"Count {n}:", "completion": " and".join(f" {i}" for i in range(1 + n * n % 29))}
        for n in range(NUM_ROWS)
    ]
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


def _run(
    folder: Path, model: Path, rows: Path, stage: int, geometry: str
) -> tuple[list[RankReport], dict[int, float], dict[int, float]]:
    world_size, micro_batch_size = GEOMETRIES[geometry]
    sizes = {"max_steps": 5, "micro_batch_size": micro_batch_size, "learning_rate": 2.0e-5}
    recipe: dict[str, Any] = base_recipe(
        folder, model, "causal-lm", rows, train=sizes, deepspeed=f"zero{stage}"
    )
    reports = train(recipe, folder, world_size, keep_gradients=True)
    assert {report.zero_stage for report in reports} == {stage}
    run_dir = run_folder(recipe)
    return reports, records(run_dir, "train/loss"), records(run_dir, "grad_norm")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_geometry_leaves_no_trace(
    stage: int, tmp_path: Path, smollm2_small_dir: Path, skewed_rows: Path
) -> None:
    runs = {
        name: _run(tmp_path / name, smollm2_small_dir, skewed_rows, stage, name)
        for name in GEOMETRIES
    }
    reference, losses, norms = runs["1x8"]
    assert len(losses) == 5
    for reports, other_losses, other_norms in runs.values():
        for report in reports:
            assert report.sample_ids == reference[0].sample_ids
        assert other_losses == pytest.approx(losses, rel=1e-5)
        assert other_norms == pytest.approx(norms, rel=1e-5)
        _assert_same_gradients(reports[0].gradients, reference[0].gradients)


def _assert_same_gradients(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == others.keys()
    whole = torch.stack([gradient.norm() for gradient in others.values()]).norm()
    for name, gradient in ours.items():
        difference = (gradient - others[name]).norm()
        # relative to the tensor, or to all of them where a tensor's own gradient vanishes
        assert difference <= 1e-5 * max(others[name].norm(), 0.01 * whole), name
