"""The same recipe on other ranks, micro-batches and accumulation is the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from launcher.recipe.resolve import resolve
from launcher.train import engine_state
from launcher.train.prepare import open_prepared
from launcher.train.step_observer import StepObserver
from tests.support.training import (
    RankReport,
    base_recipe,
    records,
    run_folder,
    train,
    write_jsonl,
)

if TYPE_CHECKING:
    from launcher.train.progress import Progress
    from launcher.train.session import Session
    from launcher.train.step import StepResult

IGNORED = -100  # label that has no loss, to transformers
GEOMETRIES = {"1x8": (1, 8), "2x4": (2, 4), "2x2x2": (2, 2)}
NUM_ROWS = 21  # two full windows of 8 and a short one of 5, which no geometry divides


class Run(NamedTuple):
    """What one geometry gave."""

    reports: list[RankReport]
    losses: dict[int, float]
    norms: dict[int, float]
    gradients: dict[str, torch.Tensor]


@dataclass(frozen=True)
class FirstMoments(StepObserver):
    """Keeps Adam's first moments after one update: (1 - beta1) times the clipped gradients."""

    folder: Path

    def after_step(self, session: Session, progress: Progress, result: StepResult) -> None:
        if progress.step == 1:
            own = [
                (fragment.name, fragment.start, fragment.tensor.detach().flatten().clone())
                for fragment in engine_state.fragments(session.engine)
                if fragment.kind == "exp_avg"
            ]
            torch.save(own, self.folder / f"moments-{session.world.rank}.pt")

    def read(self, world_size: int) -> dict[str, torch.Tensor]:
        """Return the whole tensors, put together from what each rank has of them."""
        parts: dict[str, list[tuple[int, torch.Tensor]]] = {}
        for rank in range(world_size):
            for name, start, part in torch.load(self.folder / f"moments-{rank}.pt"):
                parts.setdefault(name, []).append((start, part))
        return {
            name: torch.cat([part for _, part in sorted(found, key=lambda pair: pair[0])])
            for name, found in parts.items()
        }


@pytest.fixture(scope="module")
def skewed_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and completions of 2 to about 60 tokens: means of means would be far off."""
    rows = [
        {"prompt": f"Count {n}:", "completion": " and".join(f" {i}" for i in range(1 + n * n % 29))}
        for n in range(NUM_ROWS)
    ]
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


def _run(folder: Path, model: Path, rows: Path, stage: int, geometry: str) -> Run:
    world_size, micro_batch_size = GEOMETRIES[geometry]
    sizes = {"max_steps": 5, "micro_batch_size": micro_batch_size, "learning_rate": 2.0e-5}
    recipe: dict[str, Any] = base_recipe(
        folder, model, "causal-lm", rows, train=sizes, deepspeed=f"zero{stage}"
    )
    moments = FirstMoments(folder)
    reports = train(recipe, folder, world_size, observers=(moments,))
    assert {report.zero_stage for report in reports} == {stage}
    run_dir = run_folder(recipe)
    losses, norms = records(run_dir, "train/loss"), records(run_dir, "grad_norm")
    return Run(reports, losses, norms, moments.read(world_size))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_geometry_leaves_no_trace(
    stage: int, tmp_path: Path, smollm2_small_dir: Path, skewed_rows: Path
) -> None:
    runs = {
        name: _run(tmp_path / name, smollm2_small_dir, skewed_rows, stage, name)
        for name in GEOMETRIES
    }
    reference = runs["1x8"]
    assert len(reference.losses) == 5
    loss, norm = _by_transformers(tmp_path / "1x8", reference.reports[0].sample_ids[0])
    assert (reference.losses[1], reference.norms[1]) == pytest.approx((loss, norm), rel=1e-5)
    for run in runs.values():
        for report in run.reports:
            assert report.sample_ids == reference.reports[0].sample_ids
        assert run.losses == pytest.approx(reference.losses, rel=1e-5)
        assert run.norms == pytest.approx(reference.norms, rel=1e-5)
        _assert_same_gradients(run.gradients, reference.gradients)


def _by_transformers(folder: Path, sample_ids: list[int]) -> tuple[float, float]:
    """Return loss and gradient norm of these rows in one batch: the mean over all their targets."""
    resolved = resolve(folder / "recipe.yaml")
    rows = [open_prepared(resolved.recipe_of_data).train[number] for number in sample_ids]
    tokens = [torch.tensor(row.input_ids, dtype=torch.long) for row in rows]
    targets = [
        torch.where(torch.tensor(row.loss_mask), own, IGNORED)
        for row, own in zip(rows, tokens, strict=True)
    ]
    batch = {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(own) for own in tokens], batch_first=True),
        "labels": pad_sequence(targets, batch_first=True, padding_value=IGNORED),
    }
    model = AutoModelForCausalLM.from_pretrained(resolved.recipe.model.path, dtype=torch.float32)
    loss = model(**batch).loss
    loss.backward()
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return loss.item(), torch.stack(norms).norm().item()


def _assert_same_gradients(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == others.keys()
    whole = torch.stack([gradient.norm() for gradient in others.values()]).norm()
    for name, gradient in ours.items():
        difference = (gradient - others[name]).norm()
        # relative to the tensor, or to all of them where a tensor's own gradient vanishes
        assert difference <= 1e-5 * max(others[name].norm(), 0.01 * whole), name
