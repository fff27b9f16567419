"""Quantised base weights through bitsandbytes, stored so that ZeRO-3 can shard them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from launcher.errors import InputError, Problem
from launcher.recipe.schema import QloraMethod


def quantization_config(
    method: QloraMethod, dtype: torch.dtype, skip_modules: Sequence[str]
) -> BitsAndBytesConfig:
    """Return the config for `from_pretrained`; `skip_modules` keep their precision.

    `bnb_4bit_quant_storage` equals the dtype of everything else: ZeRO-3 flattens parameters into
    one buffer, which holds one dtype ("must flatten tensors with uniform dtype").
    """
    if method.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(skip_modules))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=method.quantization,
        bnb_4bit_use_double_quant=method.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
        llm_int8_skip_modules=list(skip_modules),
    )


def refuse_unsupported(method: QloraMethod, zero_stage: int, device: torch.device) -> None:
    """Raise InputError for what peft can't do with quantised weights (peft 0.21).

    Its DoRA layers dequantise the base weight at each step. With 8 bits they lose the scales; on a
    CPU they put a new weight in the place of the one that ZeRO-3 has partitioned.
    """
    on_cpu = device.type == "cpu"
    if method.dora and (method.quantization == "int8" or (zero_stage == 3 and on_cpu)):
        where = "" if method.quantization == "int8" else " at ZeRO-3 on a CPU"
        raise InputError(
            Problem(
                "recipe",
                "method.dora",
                f"true does not work with method.quantization {method.quantization}{where}.",
                "Set method.dora to false, or use nf4 at ZeRO 0 to 2.",
            )
        )


def prepare_quantized(model: nn.Module) -> None:
    """Freeze the base and make its layers safe to shard; dtypes stay as they are.

    peft's prepare_model_for_kbit_training would cast norms and embeddings to float32, which mixes
    dtypes in ZeRO's flat buffers. On CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit weight in
    place at the first evaluation; ZeRO-3 would then gather shards of the old layout, and the loss
    is garbage from there on. Without the repacking the layer takes its usual path.
    """
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


class _ShardableState(bitsandbytes.MatmulLtState):
    """The state of an 8-bit layer that reads the weight instead of keeping a whole copy of it."""

    parameter: nn.Parameter

    @property
    def CB(self) -> Tensor:  # noqa: N802 - bitsandbytes' name of the quantised matrix
        """The int8 weight, (out, in); empty while ZeRO-3 has it partitioned."""
        return self.parameter.data

    @CB.setter
    def CB(self, value: Tensor | None) -> None:  # noqa: N802
        """Ignore what bitsandbytes stores: it is the weight's own data."""


def shard_int8_weights(model: nn.Module) -> None:
    """Drop the second reference that 8-bit layers hold to their weights; for ZeRO-3 only.

    After ZeRO-3 has freed a weight, `state.CB` would still hold all of it on every rank. The scales
    (one number a row) stay whole.
    """
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            module.init_8bit_state()
            state: Any = module.state
            del state.CB
            state.parameter = module.weight
            state.__class__ = _ShardableState


def is_quantized_parameter(parameter: nn.Parameter) -> bool:
    """Tell whether the values of a parameter are packed by bitsandbytes."""
    return isinstance(parameter, bitsandbytes.nn.Params4bit | bitsandbytes.nn.Int8Params)


def refuse_new_quantized(model: nn.Module, new_tensors: Sequence[str]) -> None:
    """Raise InputError if a weight that the checkpoint lacks was quantised: it can't train."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    problems = [
        Problem(
            "recipe",
            "method.modules_to_save",
            f"{name} is not in the base checkpoint and would be quantised at random values.",
            f"Add {name.rsplit('.', 1)[0]} to method.modules_to_save.",
        )
        for name in new_tensors
        if is_quantized_parameter(parameters[name])
    ]
    if problems:
        raise InputError(problems)
