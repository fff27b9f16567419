"""The optimizer: which tensors it moves, which of them decay, and the rate it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from launcher.errors import InputError, Problem
from launcher.recipe.schema import TrainSection


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into decayed matrices and undecayed biases and norms.

    A tensor of one dimension is a bias, a norm's gain or a DoRA magnitude: decaying it towards
    zero is not a regulariser. Under ZeRO-3 a tensor's own shape is empty, `ds_shape` the real one.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (decayed if len(shape) > 1 else undecayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    model: nn.Module, train: TrainSection, device: torch.device
) -> torch.optim.Optimizer:
    """Build AdamW over the trainable parameters (Loshchilov & Hutter 2019, arXiv 1711.05101).

    torch's fused kernel is used wherever torch has one for the device; `adamw_8bit` is that of
    bitsandbytes with block-wise quantised moments (Dettmers et al. 2022, arXiv 2110.02861).

    Raises:
        InputError: bitsandbytes is asked for and not installed.
    """
    assert train.learning_rate is not None, "the resolved recipe has a learning rate"
    groups = parameter_groups(model, train.weight_decay)
    options: dict[str, Any] = {"lr": train.learning_rate, "betas": train.betas, "eps": train.eps}
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=device.type in ("cuda", "cpu"), **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError(
            Problem(
                "train.optimizer",
                "",
                f'"adamw_8bit" needs bitsandbytes, which can\'t be imported ({error}).',
                'Install bitsandbytes or write "adamw".',
            )
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, **options)
    return optimizer


def set_learning_rate(groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
    """Give every parameter group the rate of the coming step."""
    for group in groups:
        group["lr"] = learning_rate
