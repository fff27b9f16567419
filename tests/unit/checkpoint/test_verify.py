"""Exports that would load without an error and be wrong are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launcher.checkpoint.consolidate import held
from launcher.checkpoint.probe import Probe, difference
from launcher.checkpoint.verify import (
    adapter_moved,
    check_files,
    check_sources,
    only_trained,
    require_change,
    require_same_answers,
)
from launcher.errors import TrainingError

SHAPES = {"a": (2, 3), "b": (4,)}


def test_right_files_pass(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(4)}, tmp_path / "two.safetensors")
    check_files(tmp_path, SHAPES)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.ones(2, 3)},
        {"a": torch.ones(2, 3), "b": torch.ones(4), "lm_head.weight": torch.ones(2, 3)},
        {"a": torch.ones(2, 3), "b": torch.ones(5)},
        {"a": torch.ones(2, 3), "b": torch.ones(0)},
        {"module.a": torch.ones(2, 3), "b": torch.ones(4)},
    ],
    ids=["missing", "tied-twice", "shape", "empty", "wrapped"],
)
def test_wrong_files_are_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(TrainingError):
        check_files(tmp_path, SHAPES)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(4)}, tmp_path / "two.safetensors")
    with pytest.raises(TrainingError, match="b was written twice"):
        check_files(tmp_path, SHAPES)


def test_sources_must_make_the_model() -> None:
    with pytest.raises(TrainingError, match=r"1 missing \['b'\], 1 of another shape"):
        check_sources({"a": held(torch.ones(3, 2))}, SHAPES)


def test_lost_trained_tensors_are_named() -> None:
    with pytest.raises(TrainingError, match=r"lacks 1 of 2 trained tensors: \['b'\]"):
        only_trained({"a": held(torch.ones(1)), "c": held(torch.ones(1))}, ["a", "b"])


@pytest.mark.parametrize(
    ("name", "moved"),
    [("x.lora_B.weight", True), ("x.lora_A.weight", False), ("head.weight", True)],
)
def test_an_adapter_with_zero_b_learned_nothing(name: str, moved: bool, tmp_path: Path) -> None:
    tensors = {"x.lora_A.weight": torch.ones(2), "x.lora_B.weight": torch.zeros(2)}
    save_file({**tensors, name: torch.ones(2)}, tmp_path / "adapter.safetensors")
    assert adapter_moved(tmp_path / "adapter.safetensors") is moved


def test_unchanged_weights_are_fine_only_at_step_zero() -> None:
    require_change(False, 0)
    require_change(True, 5)
    with pytest.raises(TrainingError, match="nothing was learned"):
        require_change(False, 5)


@pytest.mark.parametrize("measured", [1.1e-5, float("nan"), float("inf")])
def test_other_answers_are_refused(measured: float) -> None:
    require_same_answers("full", 3, 0.9e-5, 1e-5)
    with pytest.raises(TrainingError, match="Nothing was exported"):
        require_same_answers("full", 3, measured, 1e-5)


def test_difference_is_relative_and_leaves_padding_out() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    live = torch.full((2, 3, 4), 2.0)
    probe = Probe(torch.zeros(2, 3, dtype=torch.long), mask, live)
    other = live.clone()
    other[0, 2] = 100.0
    assert difference(probe, other, live) == 0
    other[1, 0, 0] = 2.5
    assert difference(probe, other, live) == pytest.approx(0.25)
    other[1, 0, 0] = torch.nan
    assert difference(probe, other, live) == float("inf")
    with pytest.raises(TrainingError, match="shape"):
        difference(probe, live[:, :2], live)
