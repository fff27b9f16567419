"""A base model becomes the model that is trained: read, completed, quantised, adapted, sharded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepspeed
import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import deepspeed_config

from launcher.errors import InputError, LauncherError, Problem
from launcher.files.read import read_record
from launcher.model.embeddings import fit_vocabulary, num_embeddings
from launcher.model.folder import check_shapes, model_folder, read_headers
from launcher.model.fresh import DEFAULT_STD, fill_missing
from launcher.model.recompute import enable_gradient_checkpointing
from launcher.model.remote_code import code_class
from launcher.model.trainable import (
    check_patterns,
    covering_modules,
    freeze_all_but,
    matching,
    partition_report,
)
from launcher.recipe.schema import FreezeMethod, LoraMethod, QloraMethod, Recipe

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class LoadedModel:
    """The model of a run, in eval mode, and what the records say of it."""

    model: PreTrainedModel | PeftModel
    trainable: tuple[str, ...]
    """Names of the parameters that are trained."""
    num_trainable: int
    """Their elements."""
    num_total: int
    """Elements of all parameters, as stored: two 4-bit weights a byte."""
    num_local: int
    """Those of them that this rank holds: all, or its shards under ZeRO-3."""
    new_tensors: tuple[str, ...]
    """Names in the base model of what its checkpoint lacks, or whose rows were added."""


def load_model(
    recipe: Recipe,
    *,
    auto_class: str,
    head_patterns: tuple[str, ...],
    labels: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    zero_stage: int,
    device: torch.device,
) -> LoadedModel:
    """Return the model that the recipe trains; every rank calls this, with the same arguments.

    Under ZeRO-3 the Accelerator (with its DeepSpeed plugin) must exist before, so that parameters
    are partitioned while they are read; 4-bit and 8-bit weights are partitioned right afterwards.
    Raises InputError for a broken model folder and for names that match nothing.
    """
    folder = model_folder(recipe.model.path, recipe.model.revision)
    trusted = recipe.model.trust_remote_code
    config = read_config(folder, labels, tokenizer, trust_remote_code=trusted)
    try:
        outline = skeleton(
            auto_class, config, code_class(config, auto_class, folder) if trusted else None
        )
    except LauncherError:
        raise
    except Exception as error:
        raise _unreadable(folder, error) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    check_shapes(folder, read_headers(folder), shapes, outline.base_model_prefix)
    heads = covering_modules(shapes, matching(shapes, head_patterns)) if labels else []

    model, missing = _read_weights(recipe, auto_class, folder, outline, heads, zero_stage, device)
    std = getattr(config.get_text_config(), "initializer_range", None) or DEFAULT_STD
    fill_missing(model, missing, recipe.run.seed, std)
    num_known = num_embeddings(model)
    grown = fit_vocabulary(model, len(tokenizer), add_tokens=recipe.model.add_tokens)
    # Generation wants the cache of keys and values; training and validation would only fill it.
    model.config.use_cache = False
    if recipe.model.gradient_checkpointing:
        enable_gradient_checkpointing(model, input_gradients=isinstance(recipe.method, LoraMethod))
    trained: PreTrainedModel | PeftModel = model
    if isinstance(recipe.method, FreezeMethod):
        _freeze(model, recipe.method, head_patterns, missing, grown)
    elif isinstance(recipe.method, LoraMethod):
        from launcher.model import adapter  # with it comes peft: 2.5 s that other methods save

        trained = adapter.add_adapter(
            model,
            recipe.method,
            auto_class=auto_class,
            saved_modules=adapter.saved_modules(model, heads, missing, grown),
            new_token_ids=adapter.new_token_ids(tokenizer, recipe.model.add_tokens, num_known),
            seed=recipe.run.seed,
            dtype=getattr(torch, recipe.model.dtype),
            sharded=zero_stage == 3,
        )
    if zero_stage == 3:
        # Quantised weights and adapters were made whole; from here on no rank holds any tensor.
        if isinstance(recipe.method, QloraMethod):
            from launcher.model import quantize

            quantize.shard_int8_weights(trained)
        deepspeed.zero.Init(module=trained, config_dict_or_path=deepspeed_config())
    return _describe(trained, (*missing, *grown))


def read_config(
    folder: Path,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    trust_remote_code: bool = False,
) -> PreTrainedConfig:
    """Read config.json and write the labels and the padding token into it."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # whatever an odd value leads to
        raise _unreadable(folder, error) from error
    if labels:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    if config.get_text_config().pad_token_id is None:
        # A classifier on a decoder finds the last token of a row by it.
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return config


def _unreadable(folder: Path, error: Exception) -> InputError:
    path = folder / "config.json"
    code = read_record(path).get("auto_map")
    if code:
        return InputError(
            Problem(
                str(path),
                "model.path",
                f"the model needs code shipped in its folder ({code}), which nobody has trusted.",
                "Read it, then write model.trust_remote_code: true and add --trust-remote-code.",
            )
        )
    lines = str(error).strip().splitlines() or [""]
    message = f"makes no model ({type(error).__name__}: {lines[0]})."
    return InputError(Problem(str(path), "model.path", message, "Correct it, or fetch it again."))


def skeleton(
    auto_class: str, config: PreTrainedConfig, own_class: Any | None = None
) -> PreTrainedModel:
    """Return the model without weights (on the meta device): its modules, names and shapes.

    `own_class` is the one that the model's code has for the task.
    """
    mapping = getattr(transformers, auto_class)._model_mapping
    if own_class is None and type(config) not in mapping:
        raise InputError(
            Problem(
                "recipe",
                "model.task",
                f"a {config.model_type} model can't do this task: transformers has no "
                f"{auto_class} for it.",
            )
        )
    # The class itself, not from_config: that would partition an empty model under ZeRO-3.
    with torch.device("meta"):
        model: PreTrainedModel = (own_class or mapping[type(config)])(config)
    return model


def _read_weights(
    recipe: Recipe,
    auto_class: str,
    folder: Path,
    outline: PreTrainedModel,
    heads: Sequence[str],
    zero_stage: int,
    device: torch.device,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Run from_pretrained; return the model and the names of the tensors the checkpoint lacks."""
    dtype: torch.dtype = getattr(torch, recipe.model.dtype)
    options: dict[str, Any] = {}
    if recipe.model.attention != "auto":
        options["attn_implementation"] = recipe.model.attention
    if isinstance(recipe.method, QloraMethod):
        from launcher.model import adapter, quantize  # bitsandbytes costs as much as peft

        quantize.refuse_unsupported(recipe.method, zero_stage, device)
        output_layer = adapter.module_name(outline, outline.get_output_embeddings())
        skip = [*heads, *recipe.method.modules_to_save, *output_layer]
        options["quantization_config"] = quantize.quantization_config(recipe.method, dtype, skip)
    if zero_stage != 3:
        # One device a rank: "auto" would spread a model over the devices of the other ranks.
        options["device_map"] = {"": device}
    try:
        model, info = getattr(transformers, auto_class).from_pretrained(
            folder,
            config=outline.config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=recipe.model.trust_remote_code,
            output_loading_info=True,
            **options,
        )
    except (ImportError, ValueError) as error:
        raise InputError(Problem(str(folder), "model", f"can't be loaded: {error}")) from error
    tied = getattr(model, "all_tied_weights_keys", {})
    parameters = dict(model.named_parameters(remove_duplicate=False))
    missing = tuple(sorted(n for n in info["missing_keys"] if n in parameters and n not in tied))
    if isinstance(recipe.method, QloraMethod):
        quantize.refuse_new_quantized(model, missing)
        quantize.prepare_quantized(model)
    return model, missing


def _freeze(
    model: PreTrainedModel,
    method: FreezeMethod,
    head_patterns: tuple[str, ...],
    missing: Sequence[str],
    grown: Sequence[str],
) -> None:
    """Train the head and what the checkpoint lacks, or exactly what the recipe names."""
    if method.trainable is None:
        freeze_all_but(model, head_patterns, always=missing)
    else:
        check_patterns(model, method.trainable, "method.trainable")
        freeze_all_but(model, method.trainable)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    frozen = [name for name in (*missing, *grown) if not parameters[name].requires_grad]
    if frozen:
        # A tensor that starts from nothing and stays there is never what was meant.
        raise InputError(
            Problem(
                "recipe",
                "method.trainable",
                f"{', '.join(frozen)} would keep initial values: the base checkpoint lacks them.",
                "Add them to method.trainable.",
            )
        )


def _describe(model: PreTrainedModel | PeftModel, new_tensors: tuple[str, ...]) -> LoadedModel:
    sizes = {n: int(getattr(p, "ds_numel", p.numel())) for n, p in model.named_parameters()}
    partition = partition_report(model)
    trainable = tuple(name for name, p in model.named_parameters() if p.requires_grad)
    return LoadedModel(
        model=model,
        trainable=trainable,
        num_trainable=sum(sizes[name] for name in trainable),
        num_total=partition.total_numel,
        num_local=partition.local_numel,
        new_tensors=new_tensors,
    )
