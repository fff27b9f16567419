"""Trained adapters as peft itself names and stores them, and folded into the base."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from launcher.checkpoint.consolidate import LazyTensor
from launcher.checkpoint.describe import Description, skeleton

ADAPTER_FILE = "adapter_model.safetensors"


def adapter_shapes(description: Description) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that belongs into an adapter file."""
    model = _outline(description)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def write_adapter(
    folder: Path, description: Description, trained: Mapping[str, LazyTensor], dtype: torch.dtype
) -> int:
    """Write adapter_model.safetensors and adapter_config.json; return the bytes of the tensors."""
    assert description.adapter is not None
    model = _outline(description)
    state = {name: tensor.load() for name, tensor in trained.items()}
    named: dict[str, Tensor] = get_peft_model_state_dict(
        model, state_dict=state, save_embedding_layers=False
    )
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in sorted(named.items())}
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    description.adapter.save_pretrained(str(folder))
    return sum(tensor.nbytes for tensor in tensors.values())


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Fold adapters into their base weights; each layer is summed in float32, then rounded once."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            dtype: Any = module.get_base_layer().weight.dtype
            module.float()
            module.merge(safe_merge=True)
            module.to(dtype)
    with warnings.catch_warnings():
        # Merged they are; this only takes the wrappers off.
        warnings.filterwarnings("ignore", message=".*already merged|Already following")
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return merged


def _outline(description: Description) -> PeftModel:
    """Return the adapted model without weights; its adapter tensors require gradients."""
    assert description.adapter is not None
    base = skeleton(description)
    config = copy.deepcopy(description.adapter)
    config.inference_mode = False
    with torch.device("meta"):
        model: PeftModel = get_peft_model(base, config, autocast_adapter_dtype=False)
    return model
