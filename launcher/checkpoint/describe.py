"""What weights need to be read: class, config, tokenizer and adapter settings, kept with the run.

A checkpoint holds tensors and names only. With this folder beside it, an export needs neither the
training data nor the code that built the model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module
from transformers.integrations import deepspeed

from launcher.errors import LauncherError, TrainingError
from launcher.files.read import read_bytes, read_json
from launcher.files.write import filled_aside, replace_bytes, replace_text
from launcher.recipe.model_folder import require_readable
from launcher.recipe.schema import LoraMethod, Recipe
from launcher.run_dir import RunDir

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

QUANTIZATION = "quantization.json"
TRAINED = "trained.json"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Description:
    """The model of a run without its weights."""

    model_class: Any
    """The transformers class of the base model."""
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    adapter: LoraConfig | None
    """None where the model's own weights are trained."""
    quantization: dict[str, Any] | None
    """Settings for BitsAndBytesConfig; None where the base is not quantised."""
    trained: tuple[str, ...]
    """Names of the parameters that were trained; a checkpoint must have all of them."""


def save_description(
    run_dir: RunDir,
    recipe: Recipe,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write the description of the model that is about to be trained; by one process.

    Needs no tensor, so it works on a partitioned model without any other rank.
    """
    with filled_aside(run_dir.model) as folder:
        _write_description(folder, recipe, model, tokenizer)


def _write_description(
    folder: Path,
    recipe: Recipe,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    adapted: Any = model if isinstance(recipe.method, LoraMethod) else None
    base: Any = model if adapted is None else adapted.get_base_model()
    config = copy.deepcopy(base.config)
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        settings = quantization.to_dict() if hasattr(quantization, "to_dict") else quantization
        replace_text(folder / QUANTIZATION, json.dumps(settings, indent=2))
        del config.quantization_config
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    replace_text(folder / TRAINED, json.dumps(trained, indent=0))
    config.architectures = [type(base).__name__]
    config.dtype = recipe.model.dtype
    config.use_cache = True  # switched off for training only
    if base._auto_class is not None:  # a class out of the model's folder: its code goes along
        custom_object_save(base, folder, config=config)
    config.save_pretrained(folder)
    if base.can_generate() and base.generation_config is not None:
        base.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if adapted is not None:
        adapter = copy.deepcopy(adapted.peft_config["default"])
        adapter.base_model_name_or_path = recipe.model.path
        adapter.revision = recipe.model.revision
        adapter.inference_mode = True
        adapter.save_pretrained(str(folder))


def read_description(run_dir: RunDir, *, trust_remote_code: bool = False) -> Description:
    """Read what `save_description` wrote; with the code of the model where that is trusted.

    Raises:
        TrainingError: it isn't there, or is no longer what was written.
    """
    with as_described(run_dir):
        try:
            return _read(run_dir.model, trust_remote_code)
        except OSError as error:
            raise _changed(run_dir, error) from error


@contextmanager
def as_described(run_dir: RunDir) -> Iterator[None]:
    """Turn into one error what libraries raise over a description that was changed since.

    Raises:
        TrainingError: in place of whatever an odd value leads to.
    """
    try:
        yield
    except (LauncherError, OSError):  # said already; a full disk
        raise
    except Exception as error:
        raise _changed(run_dir, error) from error


def _changed(run_dir: RunDir, error: Exception) -> TrainingError:
    lines = str(error).strip().splitlines() or [""]
    return TrainingError(
        f"{run_dir.model} does not describe the model of this run"
        f" ({type(error).__name__}: {lines[0]}). Start the run once more: it writes this folder"
        " anew and resumes."
    )


def _read(folder: Path, trust_remote_code: bool) -> Description:
    require_readable(folder, str(folder), "")
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **options)
    adapter = None
    if (folder / ADAPTER_CONFIG).is_file():
        from peft import LoraConfig, PeftConfig  # here: 2.5 s that a full model's export saves

        adapter = PeftConfig.from_pretrained(str(folder))
        assert isinstance(adapter, LoraConfig)
    quantization = None
    if (folder / QUANTIZATION).is_file():
        quantization = read_json(folder / QUANTIZATION)
    return Description(
        model_class=_model_class(config, folder, trust_remote_code),
        config=config,
        tokenizer=AutoTokenizer.from_pretrained(folder, **options),
        adapter=adapter,
        quantization=quantization,
        trained=_names(read_json(folder / TRAINED)),
    )


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{TRAINED} is no list of names")
    return tuple(value)


def _model_class(config: PreTrainedConfig, folder: Path, trust_remote_code: bool) -> Any:
    """Return the class that was trained: one of transformers', or out of the model's own code."""
    name = (config.architectures or [""])[0]
    named = getattr(config, "auto_map", None) or {}
    for reference in named.values() if trust_remote_code else ():
        if isinstance(reference, str) and reference.endswith(f".{name}"):
            return get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
    return getattr(transformers, name)


def save_companions(description: Description, run_dir: RunDir, folder: Path) -> None:
    """Write tokenizer, generation settings and the model's own code beside exported weights."""
    description.tokenizer.save_pretrained(folder)
    source = run_dir.model
    for code in source.glob("*.py"):
        # As bytes: its encoding is its own.
        replace_bytes(folder / code.name, read_bytes(code), mode=0o666)
    if (source / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(folder)


def skeleton(description: Description) -> PreTrainedModel:
    """Return the base model on the meta device: modules, names and shapes, no weights."""
    with torch.device("meta"):
        model: PreTrainedModel = description.model_class(description.config)
    return model


@contextmanager
def plain_transformers() -> Iterator[None]:
    """Load models whole and quietly, also in a rank whose DeepSpeed config says ZeRO-3.

    transformers partitions every model that it loads while such a config is alive; one process
    alone would wait for the others there for ever.
    """
    holder: Any = deepspeed._hf_deepspeed_config_weak_ref
    config = None if holder is None else holder()
    deepspeed.unset_hf_deepspeed_config()
    verbosity = transformers.logging.get_verbosity()
    progress = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if progress:
            transformers.logging.enable_progress_bar()
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)
