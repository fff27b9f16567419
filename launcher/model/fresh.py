"""Values of tensors that no checkpoint has: heads, adapters. The one place they come from.

transformers and `deepspeed.zero.Init` draw them from global generators, in an order that depends on
the ZeRO stage and on the rank. Here each value is a function of (seed, name, shape) alone, so every
rank, stage and world size starts from the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import deepspeed
import torch
from torch import Tensor, nn

DEFAULT_STD = 0.02


def generator_for(seed: int, name: str) -> torch.Generator:
    """Return a CPU generator that belongs to one tensor name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normal(seed: int, name: str, shape: torch.Size, std: float) -> Tensor:
    """Return float32 values from N(0, std^2)."""
    return torch.randn(shape, generator=generator_for(seed, name), dtype=torch.float32) * std


def kaiming_uniform(seed: int, name: str, shape: torch.Size) -> Tensor:
    """Return float32 values from U(-b, b) with b = 1 / sqrt(fan_in): what LoRA gives its A."""
    bound = 1 / math.sqrt(shape[1:].numel())
    uniform = torch.rand(shape, generator=generator_for(seed, name), dtype=torch.float32)
    return (2 * uniform - 1) * bound


def fill_missing(model: nn.Module, names: Iterable[str], seed: int, std: float) -> None:
    """Initialise what the base checkpoint lacks: matrices normal, biases 0, scales of norms 1.

    `std` is the model's `initializer_range`. These are the rules of BERT- and Llama-type models.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in names:
        parameter = parameters[name]
        shape = full_shape(parameter)
        if len(shape) >= 2:
            values = normal(seed, name, shape, std)
        elif name.endswith("bias"):
            values = torch.zeros(shape)
        else:
            values = torch.ones(shape)
        set_values(parameter, values)


def full_shape(parameter: Tensor) -> torch.Size:
    """Return the shape of the whole tensor, partitioned or not."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def set_values(parameter: nn.Parameter, values: Tensor) -> None:
    """Overwrite a parameter, partitioned or not; every rank must call it, with the same values."""
    with gathered([parameter]), torch.no_grad():
        parameter.copy_(values.to(parameter.dtype))


@contextmanager
def gathered(parameters: list[nn.Parameter], *, write: bool = True) -> Iterator[None]:
    """Make partitioned parameters whole inside the block; a plain block for all others.

    All ranks must enter it. With `write`, rank 0's values are what is partitioned again.
    """
    partitioned = [p for p in parameters if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(
        partitioned, modifier_rank=0 if write else None, enabled=bool(partitioned)
    ):
        yield
