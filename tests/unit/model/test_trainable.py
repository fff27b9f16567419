"""Patterns choose parameters; what they miss is refused with the nearest names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from launcher.errors import InputError
from launcher.model.trainable import (
    check_patterns,
    covering_modules,
    freeze_all_but,
    partition_report,
)


@pytest.fixture
def tied() -> nn.Module:
    model = nn.ModuleDict(
        {"embed": nn.Embedding(5, 2), "body": nn.Linear(2, 2), "head": nn.Linear(2, 5, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    return model


def _trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_only_what_is_named_is_trained(tied: nn.Module) -> None:
    freeze_all_but(tied, ["body.*"])
    assert _trained(tied) == {"body.weight", "body.bias"}
    freeze_all_but(tied, ["*.bias"])
    assert _trained(tied) == {"body.bias"}


def test_a_tied_tensor_answers_to_both_names(tied: nn.Module) -> None:
    freeze_all_but(tied, ["head.*"])
    assert _trained(tied) == {"embed.weight"}


def test_always_adds(tied: nn.Module) -> None:
    freeze_all_but(tied, ["body.bias"], always=["embed.weight"])
    assert _trained(tied) == {"body.bias", "embed.weight"}


def test_patterns_that_match_nothing_are_all_named(tied: nn.Module) -> None:
    with pytest.raises(InputError) as caught:
        check_patterns(tied, ["body.*", "boddy.weight", "nose.*"], "method.trainable")
    first, second = map(str, caught.value.problems)
    assert first.startswith('recipe: method.trainable: "boddy.weight" matches no parameter')
    assert "Nearest: body.weight" in first
    assert '"nose.*"' in second


@pytest.mark.parametrize(
    ("chosen", "modules"),
    [
        (["bert.pooler.dense.weight", "bert.pooler.dense.bias"], ["bert.pooler"]),
        (["classifier.out.weight", "classifier.dense.weight"], ["classifier"]),
        (["bert.pooler.dense.bias"], ["bert.pooler.dense"]),
        ([], []),
    ],
)
def test_covering_modules(chosen: list[str], modules: list[str]) -> None:
    names = [
        "bert.embeddings.weight",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.dense.weight",
        "classifier.out.weight",
    ]
    assert covering_modules(names, chosen) == modules


def test_report_of_whole_parameters() -> None:
    report = partition_report(nn.Linear(3, 4, dtype=torch.float32))
    assert (report.num_parameters, report.num_whole) == (2, 2)
    assert (report.total_numel, report.local_numel) == (16, 16)
