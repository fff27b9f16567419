"""Writes the complete DeepSpeed config of a run: every "auto" filled, everything explicit."""

from __future__ import annotations

import copy
from typing import Any

from launcher.recipe.batch import BatchPlan
from launcher.recipe.deepspeed_check import AUTO
from launcher.recipe.deepspeed_keys import FIXED, SECTIONS
from launcher.recipe.schema import Recipe

NEVER = 1_000_000_000
"""`steps_per_print`: the launcher reports steps itself."""

# DeepSpeed's own defaults, for keys that depend on nothing.
_PLAIN_AUTO: dict[str, Any] = {
    "allgather_bucket_size": 200_000_000,
    "sub_group_size": 1_000_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "stage3_gather_16bit_weights_on_model_save": False,  # exports read the shards instead
}
_HIDDEN_SIZE_UNKNOWN = 4096  # what 7B and 8B models have
_SMALLEST_BUCKET = 1 << 20  # elements; below that, small models would pay for many small messages


def complete(
    data: dict[str, Any], recipe: Recipe, batch: BatchPlan, hidden_size: int | None
) -> dict[str, Any]:
    """Return the config that the engine gets; `data` is a checked config, with or without "auto".

    The launcher brings its own optimizer and schedule, so those sections are left out.
    """
    config = copy.deepcopy(data)
    config.pop("optimizer", None)
    config.pop("scheduler", None)
    config["train_batch_size"] = batch.global_batch_size
    config["train_micro_batch_size_per_gpu"] = batch.micro_batch_size
    config["gradient_accumulation_steps"] = batch.gradient_accumulation_steps
    # Without this key DeepSpeed clips at 1.0, whatever the recipe says.
    config["gradient_clipping"] = float(recipe.train.max_grad_norm)
    _fill_precision(config, recipe.model.dtype)
    config["zero_optimization"] = _zero(config.get("zero_optimization", {}), hidden_size)
    for key, value in FIXED.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    for key, value in (("steps_per_print", NEVER), ("wall_clock_breakdown", False)):
        if config.get(key, AUTO) == AUTO:
            config[key] = value
    if config.get("data_types", {}).get("keep_in_fp32_modules") == AUTO:
        del config["data_types"]["keep_in_fp32_modules"]  # "auto" is DeepSpeed's default
    return _integers(config)


def _fill_precision(config: dict[str, Any], dtype: str) -> None:
    for section, name in (("bf16", "bfloat16"), ("fp16", "float16")):
        config[section] = {**config.get(section, {}), "enabled": dtype == name}


def _zero(given: dict[str, Any], hidden_size: int | None) -> dict[str, Any]:
    hidden = hidden_size or _HIDDEN_SIZE_UNKNOWN
    bucket = max(hidden * hidden, _SMALLEST_BUCKET)
    auto = {
        **_PLAIN_AUTO,
        "overlap_comm": given.get("stage", 0) == 3,
        "reduce_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket * 9 // 10,
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    filled = {key: auto[key] if value == AUTO else value for key, value in given.items()}
    return {"stage": 0, **filled}


def _integers(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Turn whole floats (`5e8`) of integer keys into integers."""
    kinds = SECTIONS.get(above, {})
    for key, value in config.items():
        if isinstance(value, dict):
            _integers(value, f"{above}.{key}".lstrip("."))
        elif isinstance(value, float) and kinds.get(key) in ("int", "count", "stage"):
            config[key] = int(value)
    return config
