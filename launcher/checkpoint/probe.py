"""The live model's answers, kept in a checkpoint, and how far another model is from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.checkpoint.manifest import PROBE
from launcher.errors import TrainingError

TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest difference of a logit, relative to the largest logit, that counts as the same model.

float32 differs by the order of sums alone. In 16 bits the result of each layer is rounded to 8 or
11 bits, and which way depends on the kernels of the device and on the number of ranks.
"""


@dataclass(frozen=True)
class Probe:
    """Inputs, and the live model's logits for them in eval mode."""

    input_ids: Tensor
    """(2, length)"""
    attention_mask: Tensor
    """(2, length)"""
    logits: Tensor
    """(2, length, vocabulary) or (2, classes), float32."""


def read_probe(checkpoint: Path) -> Probe:
    """Read the probe of a checkpoint."""
    path = checkpoint / PROBE
    try:
        tensors = load_file(path)
        probe = Probe(tensors["input_ids"], tensors["attention_mask"], tensors["logits"])
    except (OSError, KeyError, SafetensorError) as error:
        raise TrainingError(
            f"{path}: can't be read ({error}): the export can't be checked."
        ) from error
    if not torch.isfinite(probe.logits).all():
        raise TrainingError(f"{path}: the live model's own logits are not finite; not exported.")
    return probe


@torch.no_grad()
def answer(model: nn.Module, probe: Probe) -> Tensor:
    """Return a model's float32 logits for the probe's inputs, in eval mode."""
    logits: Tensor = model.eval()(
        input_ids=probe.input_ids, attention_mask=probe.attention_mask
    ).logits
    return logits.float()


def difference(probe: Probe, one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two logits, relative to the largest of `other`.

    Positions of padding are left out: what a model says there is arbitrary.
    """
    if one.shape != other.shape:
        raise TrainingError(f"logits have shape {list(one.shape)}, not {list(other.shape)}.")
    if one.ndim == 3:
        real = probe.attention_mask.bool()
        one, other = one[real], other[real]
    if not torch.isfinite(one).all():
        return float("inf")
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
