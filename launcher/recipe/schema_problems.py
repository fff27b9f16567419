"""Says in the recipe's own words what pydantic found: place, value seen, rule, cure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from launcher.errors import Problem
from launcher.recipe.read_yaml import parse_scalar
from launcher.recipe.rules_text import describe, field_rule, section_of
from launcher.recipe.schema import MOSTS, Recipe
from launcher.recipe.secrets import redact
from launcher.recipe.tree import KeyPath, Node, dotted

_TEXT_FOR_TRUTH = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false"}

# Spellings of other tools, and what to write here.
_ELSEWHERE = {
    "lr": "learning_rate",
    "epochs": "num_epochs",
    "num_train_epochs": "num_epochs",
    "batch_size": "global_batch_size",
    "train_batch_size": "global_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "lr_scheduler_type": "schedule",
    "gradient_clipping": "max_grad_norm",
    "r": "rank",
    "lora_r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "max_length": "max_seq_len",
    "cutoff_len": "max_seq_len",
    "model_name_or_path": "path",
    "name_or_path": "path",
    "output_dir": "dir",
    "torch_dtype": "dtype",
    "eval_steps": "every_steps",
    "save_steps": "every_steps",
    "save_total_limit": "keep_last",
}
_DERIVED = {
    "gradient_accumulation_steps": "It is derived: global_batch_size / (ranks x micro_batch_size).",
    "bf16": "Write model.dtype: bfloat16.",
    "fp16": "Write model.dtype: float16.",
}


def schema_problems(
    error: ValidationError, root: Node, top: type[BaseModel] = Recipe
) -> list[Problem]:
    """Return one problem for each value that breaks the schema, in the order of the schema.

    `top` is the model of the whole file: a recipe's, or that of another file read the same way.
    """
    by_path: dict[KeyPath, Problem] = {}
    for detail in error.errors(include_url=False, include_context=True):
        path = real_path(detail["loc"], detail["type"], top)
        # Each alternative of a union reports on its own; the rule text names them all at once.
        problem = _problem(path, detail["type"], detail.get("input"), root, top)
        most = detail.get("ctx", {}).get("le")
        if detail["type"] == "less_than_equal" and most in MOSTS:
            seen = show(detail.get("input"))
            problem = replace(problem, message=f"got {seen}, need at most {most:,}.", cure="")
        by_path.setdefault(path, problem)
    # pydantic counts broken items as absent, and reports the list as too short besides.
    above = {path[:depth] for path in by_path for depth in range(len(path))}
    return [problem for path, problem in by_path.items() if path not in above]


def real_path(loc: tuple[int | str, ...], kind: str, top: type[BaseModel] = Recipe) -> KeyPath:
    """Drop what pydantic adds to a location: the tag of a method and the arms of a union."""
    path: list[str | int] = []
    model: type[BaseModel] | None = top
    for part in loc:
        if isinstance(part, int):
            path.append(part)
        elif model is not None and (part in model.model_fields or part == loc[-1]):
            if part not in model.model_fields and kind != "extra_forbidden":
                continue
            path.append(part)
            model = section_of((*path,), top=top)
        elif path == ["method"]:
            model = section_of(("method",), tag=part)
    if kind.startswith("union_tag"):
        path.append("type")
    return tuple(path)


def _problem(path: KeyPath, kind: str, value: Any, root: Node, top: type[BaseModel]) -> Problem:
    place, key = root.place_of(path), dotted(path)
    if kind == "extra_forbidden":
        return _unknown_key(path, place, root, top)
    rule = field_rule(path, root, top)
    if kind in ("missing", "union_tag_not_found"):
        return Problem(place, key, f"is missing; need {rule}.")
    if path == ("method", "type") and root.child("method"):
        method = root.child("method")
        value = method.plain().get("type") if method is not None else value
    return Problem(place, key, f"got {show(value)}, need {rule}.", _cure(key, value, rule))


def show(value: Any) -> str:
    """Return a value as the file has it, with its kind where that may be the mistake."""
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        text = redact(value if len(value) <= 80 else value[:77] + "...")
        return f"{json.dumps(text, ensure_ascii=False)} (text)"
    if isinstance(value, float) and value != value:
        return ".nan"
    if value in (float("inf"), float("-inf")) and not isinstance(value, bool):
        return ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _cure(key: str, value: Any, rule: str) -> str:
    if key == "train.micro_batch_size" and value == "auto":
        return "auto is not available yet: write the sequences that fit on one rank, such as 1."
    if key == "method.type" and value == "adapter":
        return "adapter is not available yet: write lora, which trains small added weights too."
    if key == "cluster.time" and not isinstance(value, str):
        return 'Quote the time: "24:00:00".'
    if isinstance(value, str):
        return _cure_for_text(value, rule)
    if isinstance(value, bool | int | float) and ("text" in rule or "one of" in rule):
        return f'Quote it: "{json.dumps(value)}".'
    return ""


def _cure_for_text(value: str, rule: str) -> str:
    if rule.startswith("one of"):
        return did_you_mean(value, rule.removeprefix("one of ").split(", "))
    if rule == "true or false":
        written = _TEXT_FOR_TRUTH.get(value.lower(), value.lower())
        return f"Write {written}." if written in ("true", "false") else ""
    if "integer" in rule or "number" in rule:
        try:
            meant = parse_scalar(value.strip().lstrip("0") or "0")
        except ValueError:  # too many digits
            return ""
        return f"Write {meant}." if isinstance(meant, int | float) else ""
    return ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean x?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else ""


def _unknown_key(path: KeyPath, place: str, root: Node, top: type[BaseModel]) -> Problem:
    name = str(path[-1])
    section = section_of(path[:-1], root=root, top=top)
    known = list(section.model_fields) if section else []
    where = dotted(path[:-1]) or ("a recipe" if top is Recipe else "this file")
    if name in _DERIVED:
        cure = _DERIVED[name]
    elif _ELSEWHERE.get(name) in known:
        cure = f"Did you mean {_ELSEWHERE[name]}?"
    else:
        cure = did_you_mean(name, known) or f"{where} has: {', '.join(known)}."
    return Problem(place, dotted(path), f"unknown key {name}.", cure)


__all__ = ["describe", "did_you_mean", "real_path", "schema_problems", "show"]
