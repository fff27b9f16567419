"""Which tensors decay, and that both optimizers are what the recipe names."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers.trainer_pt_utils import get_parameter_names

from launcher.recipe.schema import TrainSection
from launcher.train.optim import build_optimizer, parameter_groups, set_learning_rate


@pytest.fixture
def model() -> torch.nn.Module:
    config = BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    return AutoModelForSequenceClassification.from_config(config)


def test_no_decay_on_norms_and_biases(model: torch.nn.Module) -> None:
    """The same split as transformers' Trainer, which goes by module type and name."""
    theirs = get_parameter_names(
        model, [torch.nn.LayerNorm], [r"bias", r"layernorm", r"(?:^|\.)norm(?:$|\.)"]
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, undecayed = parameter_groups(model, 0.1)
    assert {names[parameter] for parameter in decayed["params"]} == set(theirs)
    assert len(decayed["params"]) + len(undecayed["params"]) == len(names)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_left_out(model: torch.nn.Module) -> None:
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    assert sum(len(group["params"]) for group in groups) == 2


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adamw_8bit", "AdamW8bit")])
def test_optimizer_of_the_recipe(model: torch.nn.Module, name: str, kind: str) -> None:
    train = TrainSection.model_validate(
        {
            "optimizer": name,
            "learning_rate": 1e-3,
            "betas": (0.8, 0.95),
            "max_steps": 1,
            "global_batch_size": 1,
            "micro_batch_size": 1,
        }
    )
    optimizer = build_optimizer(model, train, torch.device("cpu"))
    assert type(optimizer).__name__ == kind
    set_learning_rate(optimizer.param_groups, 5e-4)
    for group in optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"])) == (5e-4, (0.8, 0.95))
