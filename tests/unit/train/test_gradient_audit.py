"""The audit sees tensors without gradient and gradients that are not finite; LoRA's A may wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from launcher.errors import TrainingError
from launcher.train.gradient_audit import GradientAudit


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Adapted(nn.Module):
    """A layer with a LoRA pair as peft starts it, and one that the output doesn't use."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.Linear(4, 2, bias=False)
        self.lora_B = nn.Linear(2, 4, bias=False)
        self.unused = nn.Linear(4, 4, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: torch.Tensor, *, with_unused: bool) -> torch.Tensor:
        y = self.lora_B(self.lora_A(x)) + x
        return self.unused(y) if with_unused else y


def step(model: Adapted, *, with_unused: bool = True, scale: float = 1.0) -> None:
    model.zero_grad()
    (model(torch.randn(3, 4), with_unused=with_unused).square().sum() * scale).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad


CPU = torch.device("cpu")


def test_lora_passes_although_a_starts_without_gradient() -> None:
    model = Adapted()
    audit = GradientAudit(model)
    for number in (1, 2):
        step(model)
        assert audit.judge(number, CPU, strict=True) == []
    assert not audit.active


def test_unused_tensor_is_named() -> None:
    model = Adapted()
    audit = GradientAudit(model)
    step(model, with_unused=False)
    with pytest.raises(TrainingError, match=r"1 of 3 trainable tensors .*unused\.weight"):
        audit.judge(1, CPU, strict=True)


def test_unused_tensor_can_be_accepted() -> None:
    model = Adapted()
    audit = GradientAudit(model)
    step(model, with_unused=False)
    assert audit.judge(1, CPU, strict=False) == ["unused.weight"]


def test_a_that_never_gets_a_gradient_is_found_at_step_two() -> None:
    model = Adapted()
    model.lora_B.weight.requires_grad_(False)
    audit = GradientAudit(model)
    step(model)
    assert audit.judge(1, CPU, strict=True) == []
    step(model)
    with pytest.raises(TrainingError, match=r"lora_A\.weight"):
        audit.judge(2, CPU, strict=True)


def test_infinite_gradient_is_named() -> None:
    model = Adapted()
    audit = GradientAudit(model)
    step(model, scale=float("inf"))
    with pytest.raises(TrainingError, match="not finite"):
        audit.judge(1, CPU, strict=False)
