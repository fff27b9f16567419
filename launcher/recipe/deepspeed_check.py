"""Checks a DeepSpeed config by itself: keys, kinds of values, and pairs that exclude each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.errors import Problem
from launcher.recipe.deepspeed_keys import FIXED, OPTIMIZERS, REFUSED, SCHEDULERS, SECTIONS, Kinds
from launcher.recipe.schema_problems import did_you_mean, show
from launcher.recipe.tree import Node

AUTO = "auto"

FILLABLE = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "bf16.enabled",
        "fp16.enabled",
        "zero_optimization.reduce_bucket_size",
        "zero_optimization.allgather_bucket_size",
        "zero_optimization.overlap_comm",
        "zero_optimization.sub_group_size",
        "zero_optimization.stage3_prefetch_bucket_size",
        "zero_optimization.stage3_param_persistence_threshold",
        "zero_optimization.stage3_max_live_parameters",
        "zero_optimization.stage3_max_reuse_distance",
        "zero_optimization.stage3_gather_16bit_weights_on_model_save",
        "steps_per_print",
        "wall_clock_breakdown",
    }
)
"""Keys that may say "auto": the recipe, the model or the launcher gives their value."""

_RULES = {
    "count": "an integer >= 1",
    "int": "an integer >= 0",
    "number": "a number >= 0",
    "bool": "true or false",
    "text": "text",
    "section": "an object",
    "stage": "0, 1, 2 or 3",
    "device": "one of none, cpu, nvme",
}


def check_deepspeed(root: Node, num_nodes: int) -> list[Problem]:
    """Return every problem of the config that needs no recipe to be seen."""
    problems = list(_check_section(root, "", SECTIONS[""]))
    problems += _one_precision(root)
    problems += _known_names(root)
    if not problems:
        problems += _offload_fits_stage(root)
        problems += _nvme(root, num_nodes)
    return problems


def _check_section(section: Node, above: str, kinds: Kinds) -> Iterator[Problem]:
    for name, node in section.value.items():
        key = f"{above}{name}"
        if key in REFUSED:
            yield Problem(node.place, key, f"can't be set: {REFUSED[key]}", "Remove it.")
        elif name not in kinds:
            cure = did_you_mean(name, kinds) or "Remove it: DeepSpeed would ignore or refuse it."
            yield Problem(node.place, key, f"unknown key {name}.", cure)
        else:
            yield from _check_value(node, key, kinds[name])


def _check_value(node: Node, key: str, kind: str) -> Iterator[Problem]:
    if node.value == AUTO and key in FILLABLE:
        return
    if node.value == AUTO and kind != "section":
        message = 'the recipe has nothing that fills "auto" here'
        yield Problem(node.place, key, f"{message}; need {_RULES[kind]}.")
    elif not _accepts(kind, node.value):
        expected = "expected object" if kind == "section" else f"need {_RULES[kind]}"
        also = ' or "auto"' if key in FILLABLE else ""
        yield Problem(node.place, key, f"got {show(node.plain())}, {expected}{also}.")
    elif key in FIXED and node.value != FIXED[key]:
        message = f"got {show(node.value)}, but the training loop relies on {show(FIXED[key])}."
        yield Problem(node.place, key, message, "Remove it.")
    elif kind == "section" and key in SECTIONS:
        yield from _check_section(node, f"{key}.", SECTIONS[key])


def _accepts(kind: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "section":
        return isinstance(value, dict)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "text":
        return isinstance(value, str)
    if kind == "stage":
        return is_number and value in (0, 1, 2, 3)
    if kind == "device":
        return value in ("none", "cpu", "nvme")
    if kind == "number":
        return is_number and 0 <= value < float("inf")
    # DeepSpeed's own examples write bucket sizes as 5e8, which JSON calls a float.
    return is_number and value >= (kind == "count") and value == value // 1


def value_at(root: Node, key: str) -> Any:
    """Return the plain value at a dotted key, or None."""
    node: Node | None = root
    for part in key.split("."):
        node = node.child(part) if node else None
    return node.plain() if node else None


def _one_precision(root: Node) -> Iterator[Problem]:
    if value_at(root, "fp16.enabled") is True and value_at(root, "bf16.enabled") is True:
        message = "fp16 and bf16 are both enabled; choose one."
        place = root.place_of(("bf16", "enabled"))
        yield Problem(place, "bf16.enabled", message, 'Write "auto" in both: model.dtype decides.')


def _known_names(root: Node) -> Iterator[Problem]:
    for section, known in (("optimizer", OPTIMIZERS), ("scheduler", SCHEDULERS)):
        name = value_at(root, f"{section}.type")
        if name is not None and name not in known:
            message = f"got {show(name)}, need one of {', '.join(known)}."
            cure = did_you_mean(str(name), known)
            yield Problem(root.place_of((section, "type")), f"{section}.type", message, cure)


def _offload_fits_stage(root: Node) -> Iterator[Problem]:
    stage = value_at(root, "zero_optimization.stage") or 0
    for name, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        device = value_at(root, f"zero_optimization.{name}.device") or "none"
        if device != "none" and stage < lowest:
            path = ("zero_optimization", name, "device")
            message = f"{name} to {device} does not work with stage {stage}."
            need = "3" if lowest == 3 else "1, 2 or 3"
            yield Problem(root.place_of(path), ".".join(path), message, f"Use stage {need}.")


def _nvme(root: Node, num_nodes: int) -> Iterator[Problem]:
    optimizer = ("zero_optimization", "offload_optimizer", "device")
    if value_at(root, ".".join(optimizer)) == "nvme":
        message = "masters and moments on an NVMe drive can't be saved in a checkpoint yet."
        yield Problem(root.place_of(optimizer), ".".join(optimizer), message, 'Use "cpu".')
    if value_at(root, "zero_optimization.offload_param.device") == "nvme":
        path = ("zero_optimization", "offload_param", "nvme_path")
        folder = value_at(root, ".".join(path))
        place, key = root.place_of(path), ".".join(path)
        if not folder:
            yield Problem(place, key, "is missing; device nvme needs a folder.")
        elif num_nodes == 1 and not (Path(folder).is_dir() and os.access(folder, os.W_OK)):
            # With more nodes, the folder is on machines that this one can't look at.
            state = "is not writable" if Path(folder).is_dir() else "does not exist"
            yield Problem(place, key, f"{folder} {state}.", "Name a folder on a local NVMe drive.")
