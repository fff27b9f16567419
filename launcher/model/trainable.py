"""Which parameters are trained, and how they lie on the ranks."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from launcher.errors import InputError, Problem

NUM_NEAREST = 5


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that at least one shell-style pattern matches, in their order."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def nearest(wanted: str, names: Iterable[str]) -> str:
    """Return the names most like `wanted`, as a list to show."""
    unique = sorted(set(names))
    close = difflib.get_close_matches(wanted, unique, n=NUM_NEAREST, cutoff=0.0)
    return ", ".join(close)


def freeze_all_but(
    model: nn.Module, patterns: Sequence[str], *, always: Sequence[str] = ()
) -> None:
    """Train only what `patterns` and `always` name; a tied tensor answers to each of its names."""
    named = dict(model.named_parameters(remove_duplicate=False))
    trained = {id(named[name]) for name in (*matching(named, patterns), *always)}
    for parameter in named.values():
        parameter.requires_grad_(id(parameter) in trained)


def check_patterns(model: nn.Module, patterns: Sequence[str], key: str) -> None:
    """Raise one InputError for all patterns that match no parameter."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    problems = [
        Problem(
            "recipe",
            key,
            f'"{pattern}" matches no parameter of the model.',
            f"Nearest: {nearest(pattern.strip('*.'), names)}.",
        )
        for pattern in patterns
        if not matching(names, [pattern])
    ]
    if problems:
        raise InputError(problems)


def covering_modules(names: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """Return the fewest modules that hold `chosen` parameters and, where possible, no others.

    >>> covering_modules(["a.x.weight", "b.c.weight", "b.d.bias"], ["b.c.weight", "b.d.bias"])
    ['b']
    """
    wanted = set(chosen)
    others = [name for name in names if name not in wanted]
    modules: dict[str, None] = {}
    for name in sorted(wanted):
        parts = name.split(".")[:-1]
        prefixes = [".".join(parts[: i + 1]) for i in range(len(parts))]
        pure = [p for p in prefixes if not any(o.startswith(f"{p}.") for o in others)]
        if pure or prefixes:
            modules[pure[0] if pure else prefixes[-1]] = None
    return list(modules)


@dataclass(frozen=True)
class PartitionReport:
    """How the parameters of a model lie on this rank."""

    num_parameters: int
    """Tensors."""
    num_whole: int
    """Tensors that this rank holds in full: 0 under ZeRO-3."""
    total_numel: int
    """Elements of the model."""
    local_numel: int
    """Elements that this rank holds; under ZeRO-3 about total / world size, plus padding."""


def partition_report(model: nn.Module) -> PartitionReport:
    """Measure what of each parameter this rank holds, in elements as they are stored."""
    num_parameters = num_whole = total = local = 0
    for parameter in model.parameters():
        num_parameters += 1
        total += int(getattr(parameter, "ds_numel", parameter.numel()))
        shard = getattr(parameter, "ds_tensor", None)
        if shard is None or parameter.numel() != 0:
            num_whole += 1
            local += parameter.numel()
        else:
            local += shard.numel()
    return PartitionReport(num_parameters, num_whole, total, local)
