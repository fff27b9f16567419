"""`--sweep KEY=V1,V2`: one run for every combination of values, each with a name of its own."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.errors import InputError, Problem

MAX_TASKS = 1000  # Slurm's own default limit of an array is 1001
MAX_NAME = 100


@dataclass(frozen=True)
class Task:
    """One run of a sweep: its overrides, and what its name ends with."""

    overrides: tuple[str, ...]
    suffix: str


def tasks_of(sweeps: Sequence[str]) -> list[Task]:
    """Return every combination of the values, the last key varying fastest; one task without any.

    Raises:
        InputError: a sweep is not KEY=V1,V2, has one value, a value twice, or there are too many.
    """
    axes = [_axis(sweep) for sweep in sweeps]
    keys = [key for key, _ in axes]
    doubled = {key for key in keys if keys.count(key) > 1}
    if doubled:
        raise InputError(_problem(f"{doubled.pop()} is given twice.", "Give its values at once."))
    count = math.prod(len(values) for _, values in axes)
    if count > MAX_TASKS:
        message = f"{count} combinations; a job array has {MAX_TASKS} at most."
        raise InputError(_problem(message))
    combinations = itertools.product(*(values for _, values in axes))
    tasks = [_task(keys, values) for values in combinations]
    if len({task.suffix for task in tasks}) < len(
        tasks
    ):  # values that only punctuation tells apart
        return [Task(task.overrides, f"-{index}") for index, task in enumerate(tasks)]
    return tasks


def named(name: str, task: Task, index: int) -> str:
    """Return the name of the run of one task."""
    if len(name) + len(task.suffix) <= MAX_NAME:
        return name + task.suffix
    return f"{name[: MAX_NAME - 5]}-{index}"


def _axis(sweep: str) -> tuple[str, tuple[str, ...]]:
    key, equals, text = sweep.partition("=")
    values = tuple(_split(text))
    if not equals or not key.strip() or len(values) < 2 or not all(values):
        raise InputError(
            _problem(
                f"got {sweep!r}, need KEY=V1,V2 with at least two values.",
                "Example: --sweep train.learning_rate=1e-5,2e-5 (one value: --set)",
            )
        )
    if len(set(values)) < len(values):
        raise InputError(_problem(f"{sweep}: a value stands twice."))
    if key.strip() in ("run.name", "run.dir"):
        raise InputError(_problem(f"{key.strip()} follows from the values that are swept."))
    if key.strip().startswith("cluster."):
        message = f"{key.strip()} can't be swept: the jobs of an array are all alike."
        raise InputError(_problem(message, "Submit one job for each."))
    return key.strip(), values


def _split(text: str) -> Iterator[str]:
    """Yield what commas separate outside of brackets and quotes."""
    depth, quote, part = 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        if character == "," and not quote and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += character
    yield part.strip()


def _task(keys: Sequence[str], values: Sequence[str]) -> Task:
    overrides = tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    words = [f"{key.rpartition('.')[2]}-{value}" for key, value in zip(keys, values, strict=True)]
    clean = (re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-") for word in words)
    return Task(overrides, "".join(f"-{word}" for word in clean))


def _problem(message: str, cure: str = "") -> Problem:
    return Problem("--sweep", "", message, cure)
