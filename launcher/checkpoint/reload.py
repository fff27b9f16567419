"""Exports as their users will see them: read with plain transformers and peft."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from launcher.checkpoint.describe import Description
from launcher.errors import TrainingError
from launcher.recipe.schema import Recipe

if TYPE_CHECKING:
    from peft import PeftModel


def load_base(recipe: Recipe, description: Description, *, quantized: bool) -> PreTrainedModel:
    """Load the base model as the run did, with room for the tokens that the run added.

    `quantized` repeats the run's quantisation, where it had any.
    """
    own: Any = AutoConfig.from_pretrained(
        recipe.model.path,
        revision=recipe.model.revision,
        local_files_only=True,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    config = type(description.config).from_dict(description.config.to_dict())
    num_tokens = config.get_text_config().vocab_size
    config.get_text_config().vocab_size = own.get_text_config().vocab_size
    options = _options(recipe)
    if quantized and description.quantization is not None:
        options["quantization_config"] = BitsAndBytesConfig.from_dict(description.quantization)
    model = description.model_class.from_pretrained(
        recipe.model.path, revision=recipe.model.revision, config=config, **options
    )
    if num_tokens != config.get_text_config().vocab_size:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    if "quantization_config" in options:
        import bitsandbytes  # here, because it takes 2 s

        for module in model.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                # As in training: evaluation on some CPUs would repack the weights in place.
                module.support_avx512bf16_for_cpu = False
    base: PreTrainedModel = model.eval()
    return base


def load_model(folder: Path, recipe: Recipe, description: Description) -> PreTrainedModel:
    """Load an exported full model; raise TrainingError unless every name matches."""
    model, info = description.model_class.from_pretrained(
        folder, output_loading_info=True, **_options(recipe)
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            raise TrainingError(f"{folder}: transformers found {kind}: {sorted(info[kind])[:5]}.")
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Put an exported adapter on a base model; raise TrainingError unless all of it is found."""
    from peft import PeftModel  # here, because a full model's export needs no peft

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The dtype of training, not float32: the live logits were computed so.
        model = PeftModel.from_pretrained(base, str(folder), autocast_adapter_dtype=False)
    for warning in caught:
        if re.search(r"missing adapter keys|unexpected", str(warning.message), re.IGNORECASE):
            raise TrainingError(f"{folder}: peft says: {warning.message}")
    adapted: PeftModel = model.eval()
    return adapted


def _options(recipe: Recipe) -> dict[str, Any]:
    options: dict[str, Any] = {
        "dtype": getattr(torch, recipe.model.dtype),
        "local_files_only": True,
        "use_safetensors": True,
        "trust_remote_code": recipe.model.trust_remote_code,
    }
    if recipe.model.attention != "auto":
        options["attn_implementation"] = recipe.model.attention
    return options
