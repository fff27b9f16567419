"""Values of new tensors depend on seed and name alone, and have the distribution they should."""

from __future__ import annotations

import math

import torch
from torch import nn

from launcher.model.fresh import fill_missing, kaiming_uniform, normal


def test_same_name_same_values_whatever_was_drawn_before() -> None:
    one = normal(7, "head.weight", torch.Size((3, 5)), 0.02)
    torch.manual_seed(123)
    torch.rand(1000)
    assert torch.equal(one, normal(7, "head.weight", torch.Size((3, 5)), 0.02))
    assert not torch.equal(one, normal(8, "head.weight", torch.Size((3, 5)), 0.02))
    assert not torch.equal(one, normal(7, "head2.weight", torch.Size((3, 5)), 0.02))


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    normal(7, "x", torch.Size((10, 10)), 1.0)
    assert torch.equal(torch.rand(4), expected)


def test_distribution_of_normal() -> None:
    values = normal(1, "w", torch.Size((400, 500)), 0.02)
    assert abs(values.mean()) < 0.02 / math.sqrt(200_000) * 4
    assert abs(values.std() / 0.02 - 1) < 0.01


def test_kaiming_uniform_is_torchs() -> None:
    """nn.Linear's own rule, a = sqrt(5), which peft uses for LoRA's A."""
    values = kaiming_uniform(1, "a", torch.Size((64, 1000)))
    reference = torch.empty(64, 1000)
    nn.init.kaiming_uniform_(reference, a=math.sqrt(5))
    assert values.abs().max() <= 1 / math.sqrt(1000)
    assert abs(values.std() / reference.std() - 1) < 0.02


def test_matrices_biases_and_scales() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    fill_missing(model, names, seed=3, std=0.5)
    assert torch.equal(model[0].weight, normal(3, "0.weight", torch.Size((3, 4)), 0.5))
    assert not model[0].bias.any()
    assert torch.equal(model[1].weight, torch.ones(3))
    assert not model[1].bias.any()
