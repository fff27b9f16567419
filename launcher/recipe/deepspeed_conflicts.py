"""Finds where a DeepSpeed config says one thing and the recipe another; both values are named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.errors import Problem
from launcher.recipe.batch import BatchPlan
from launcher.recipe.deepspeed_check import AUTO, value_at
from launcher.recipe.finding import Finding, Place
from launcher.recipe.schema import QloraMethod, Recipe
from launcher.recipe.schema_problems import show
from launcher.recipe.tree import Node

# Adam is AdamW to DeepSpeed unless `adam_w_mode` is false.
_ADAMW = ("Adam", "AdamW")
_SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}


@dataclass(frozen=True)
class Claim:
    """What one DeepSpeed key has to say, because a recipe key says it."""

    key: str
    recipe_key: str
    value: Any


def conflicts(root: Node, recipe: Recipe, batch: BatchPlan | None, place: Place) -> list[Finding]:
    """Return each contradiction with its recipe key; `recipe` has its defaults filled."""
    found: list[Finding] = [
        ((claim.recipe_key,), _contradiction(root, claim, place))
        for claim in _claims(root, recipe, batch)
        if _contradicts(value_at(root, claim.key), claim.value)
    ]
    return [*found, *_names(root, recipe, place), *_pairs(root, recipe, place)]


def _claims(root: Node, recipe: Recipe, batch: BatchPlan | None) -> Iterator[Claim]:
    train, dtype = recipe.train, recipe.model.dtype
    yield Claim("train_batch_size", "train.global_batch_size", train.global_batch_size)
    micro = train.micro_batch_size
    yield Claim("train_micro_batch_size_per_gpu", "train.micro_batch_size", micro)
    if batch is not None:
        steps = batch.gradient_accumulation_steps
        yield Claim("gradient_accumulation_steps", "train.global_batch_size", steps)
    yield Claim("gradient_clipping", "train.max_grad_norm", train.max_grad_norm)
    if not (value_at(root, "bf16.enabled") is True and value_at(root, "fp16.enabled") is True):
        yield Claim("bf16.enabled", "model.dtype", dtype == "bfloat16")
        yield Claim("fp16.enabled", "model.dtype", dtype == "float16")
    yield from _optimizer_claims(recipe)
    yield from _scheduler_claims(recipe)


def _optimizer_claims(recipe: Recipe) -> Iterator[Claim]:
    train = recipe.train
    yield Claim("optimizer.params.lr", "train.learning_rate", train.learning_rate)
    yield Claim("optimizer.params.weight_decay", "train.weight_decay", train.weight_decay)
    yield Claim("optimizer.params.betas", "train.betas", list(train.betas))
    yield Claim("optimizer.params.eps", "train.eps", train.eps)
    yield Claim("optimizer.params.adam_w_mode", "train.optimizer", True)
    yield Claim("optimizer.params.max_grad_norm", "train.max_grad_norm", train.max_grad_norm)


def _scheduler_claims(recipe: Recipe) -> Iterator[Claim]:
    train, params = recipe.train, "scheduler.params"
    ratio = train.min_learning_rate_ratio
    yield Claim(f"{params}.warmup_max_lr", "train.learning_rate", train.learning_rate)
    yield Claim(f"{params}.warmup_min_lr", "train.schedule", 0.0)
    yield Claim(f"{params}.warmup_type", "train.schedule", "linear")
    yield Claim(f"{params}.warmup_num_steps", "train.warmup_steps", train.warmup_steps)
    yield Claim(f"{params}.total_num_steps", "train.max_steps", train.max_steps)
    yield Claim(f"{params}.cos_min_ratio", "train.min_learning_rate_ratio", ratio)


def _contradicts(said: Any, meant: Any) -> bool:
    if said is None or said == AUTO:
        return False
    if isinstance(said, list) and isinstance(meant, list) and len(said) == len(meant):
        return any(_contradicts(a, b) for a, b in zip(said, meant, strict=True))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (said, meant))
    if numbers:
        return not math.isclose(said, meant, rel_tol=1e-9)
    return bool(said != meant)


def _contradiction(root: Node, claim: Claim, place: Place) -> Problem:
    said = value_at(root, claim.key)
    where = root.place_of(tuple(claim.key.split(".")))
    said_text = f"{said}" if isinstance(said, list) else show(said)
    meant = "nothing" if claim.value is None else claim.value
    meant = show(meant).removesuffix(" (text)") if not isinstance(meant, list | str) else meant
    reason = _reason(claim, meant)
    message = f"{said_text} contradicts {reason} ({place(claim.recipe_key)})."
    return Problem(where, claim.key, message, 'Write "auto": the recipe decides.')


def _reason(claim: Claim, meant: Any) -> str:
    if claim.key == "gradient_accumulation_steps":
        return f"the recipe's batch sizes, which need {meant}"
    if claim.recipe_key == "model.dtype":
        return f"the recipe's model.dtype, which needs {meant}"
    if claim.key.endswith(("warmup_min_lr", "warmup_type", "adam_w_mode")):
        return f"the recipe's {claim.recipe_key}, which means {meant}"
    return f"the recipe's {claim.recipe_key} {meant}"


def _names(root: Node, recipe: Recipe, place: Place) -> Iterator[Finding]:
    optimizer = value_at(root, "optimizer.type")
    if optimizer is not None and (optimizer not in _ADAMW or recipe.train.optimizer != "adamw"):
        yield _name_problem(root, "optimizer", optimizer, recipe.train.optimizer, place)
    scheduler = value_at(root, "scheduler.type")
    if scheduler is not None and _SCHEDULES.get(scheduler) != recipe.train.schedule:
        yield _name_problem(root, "schedule", scheduler, recipe.train.schedule, place)


def _name_problem(root: Node, key: str, said: str, meant: str, place: Place) -> Finding:
    section = "scheduler" if key == "schedule" else key
    recipe_key = f"train.{key}"
    message = f"{said} contradicts the recipe's {recipe_key} {meant} ({place(recipe_key)})."
    where = root.place_of((section, "type"))
    return (recipe_key,), Problem(where, f"{section}.type", message, f"Remove `{section}`.")


def _pairs(root: Node, recipe: Recipe, place: Place) -> Iterator[Finding]:
    device = value_at(root, "zero_optimization.offload_param.device") or "none"
    if isinstance(recipe.method, QloraMethod) and device != "none":
        path = ("zero_optimization", "offload_param", "device")
        message = (
            f"method qlora ({place('method.type')}) does not work with offload_param to {device}: "
            "quantised weights stay on the GPU."
        )
        cure = "Use ds_configs/qlora.json, or method lora."
        yield ("method.type",), Problem(root.place_of(path), ".".join(path), message, cure)
    param_dtype = value_at(root, "data_types.param_dtype")
    if param_dtype is not None:
        key = "data_types.param_dtype"
        message = f"can't be set: model.dtype ({place('model.dtype')}) decides."
        yield ("model.dtype",), Problem(root.place_of(("data_types", "param_dtype")), key, message)
