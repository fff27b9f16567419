"""How much disk a run needs at its peak, held against what is free before anything starts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.files.read import Record, real
from launcher.plan.rows import training_rows
from launcher.plan.shapes import Shapes, Trainable, count_trainable, read_shapes
from launcher.recipe.check import Facts, has_validation
from launcher.recipe.model_folder import ModelFacts
from launcher.recipe.schema import LoraMethod, Recipe
from launcher.recipe.steps import plan_steps
from launcher.run_dir import RunDir

MASTER_BYTES = 4
"""Every trained parameter is saved in float32, whatever the model computes in."""
MOMENT_BYTES = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}
"""Two float32 moments a parameter; or two of 8 bits with a float32 scale for every 256."""
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

_ENTRY_BYTES = 200
"""Name, dtype, shape and place of one tensor in a file's header."""
_PROBE_TOKENS = 2 * 32
"""Every checkpoint keeps what the model answers to so many tokens, in float32."""
_UNKNOWN_LABELS = 64


@dataclass(frozen=True)
class DiskPlan:
    """The peak of a run's folder, and the room that there is."""

    checkpoint_bytes: int
    num_checkpoints: int
    """At most at one time: those kept, the best, and the one that is being written."""
    export_bytes: int
    folder: Path
    """The nearest folder that exists already."""
    free_bytes: int
    reused_bytes: int
    """Of the run's own checkpoints that are there already."""

    @property
    def needed_bytes(self) -> int:
        """What checkpoints and export take together."""
        return self.num_checkpoints * self.checkpoint_bytes + self.export_bytes

    @property
    def missing_bytes(self) -> int:
        """What is needed and not there; 0 where the run fits."""
        return max(0, self.needed_bytes - self.free_bytes - self.reused_bytes)

    def __str__(self) -> str:
        one, export = readable(self.checkpoint_bytes), readable(self.export_bytes)
        total = readable(self.needed_bytes)
        return f"{self.num_checkpoints} checkpoints of {one} and an export of {export}: {total}"


def plan_disk(recipe: Recipe, model: ModelFacts | None, world_size: int) -> DiskPlan | None:
    """Return what the run needs; None where the model's shapes aren't known (a hub name).

    `recipe` has its defaults filled. Raises `InputError` for files of the model that are broken.
    """
    shapes = read_shapes(model.folder) if model is not None else None
    if model is None or shapes is None:
        return None
    counted = count_trainable(recipe, shapes, model.config)
    run_dir = RunDir(Path(recipe.run.dir) / recipe.run.name)
    folder = existing_folder(run_dir.root)
    return DiskPlan(
        checkpoint_bytes=_checkpoint_bytes(recipe, model, shapes, counted, world_size),
        num_checkpoints=_num_checkpoints(recipe),
        export_bytes=_export_bytes(recipe, model, counted),
        folder=folder,
        free_bytes=shutil.disk_usage(folder).free,
        reused_bytes=_bytes_there(run_dir),
    )


def existing_folder(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _checkpoint_bytes(
    recipe: Recipe, model: ModelFacts, shapes: Shapes, counted: Trainable, world_size: int
) -> int:
    trained = counted.num_trainable + _new_parameters(recipe, model, counted)
    tensors = trained * (MASTER_BYTES + MOMENT_BYTES[recipe.train.optimizer])
    # Weights and two moments, adapters come in pairs, and any rank may hold a part of each.
    headers = 3 * 2 * len(shapes) * world_size * _ENTRY_BYTES
    return math.ceil(tensors) + headers + _probe_bytes(recipe, model)


def _new_parameters(recipe: Recipe, model: ModelFacts, counted: Trainable) -> int:
    """At most: rows for added tokens, and a head of one dense layer and the classes."""
    hidden = model.hidden_size or 0
    head = hidden * (hidden + (len(recipe.model.labels or ()) or _UNKNOWN_LABELS))
    return len(recipe.model.add_tokens) * hidden + (head if counted.new_head else 0)


def _probe_bytes(recipe: Recipe, model: ModelFacts) -> int:
    config = Record(model.config)
    vocabulary = (config.record("text_config") or config).integer("vocab_size") or 0
    answers = vocabulary * _PROBE_TOKENS if recipe.model.task == "causal-lm" else 0
    return 4 * answers + 2 * 8 * _PROBE_TOKENS


def _num_checkpoints(recipe: Recipe) -> int:
    """Kept (the newest two whatever the recipe says), the best, and the one being written."""
    checkpoint = recipe.checkpoint
    best = int(checkpoint.keep_best and has_validation(recipe))
    most = max(2, checkpoint.keep_last) + best + 1
    saves = _num_saves(recipe)
    return most if saves is None else min(most, saves)


def _num_saves(recipe: Recipe) -> int | None:
    """Count the steps that may be saved after; None where the length of the run isn't known."""
    num_rows = training_rows(recipe.data)
    try:
        plan = plan_steps(recipe.train, num_rows) if num_rows is not None else None
    except InputError:
        return None
    if plan is None:
        return None
    intervals = {recipe.checkpoint.every_steps or plan.steps_per_epoch}
    if recipe.checkpoint.keep_best and has_validation(recipe):
        intervals.add(recipe.evaluate.every_steps or plan.steps_per_epoch)
    if plan.total_steps // min(intervals) > 100:
        return None  # more than anybody keeps
    last = {plan.total_steps}
    return len(last.union(*(range(step, plan.total_steps, step) for step in intervals)))


def _export_bytes(recipe: Recipe, model: ModelFacts, counted: Trainable) -> int:
    adapter_alone = isinstance(recipe.method, LoraMethod) and not recipe.export.merge
    parameters = counted.num_trainable if adapter_alone else counted.num_parameters
    parameters += _new_parameters(recipe, model, counted)
    return parameters * ITEM_BYTES[recipe.model.dtype]


def _bytes_there(run_dir: RunDir) -> int:
    """Return the bytes of the checkpoints that there are; what was put aside stays."""
    files = (file for folder in run_dir.all_checkpoints for file in folder.rglob("*"))
    return sum(file.lstat().st_size for file in files if file.is_file())


def disk_rule(facts: Facts) -> Iterator[Problem]:
    """Yield a problem where the run can't fit on the file system of its folder.

    A finished run needs nothing more, and files of the model that are broken are reported by
    whatever reads the weights.
    """
    recipe = facts.recipe
    if RunDir(Path(recipe.run.dir) / recipe.run.name).summary.exists():
        return
    try:
        plan = plan_disk(recipe, facts.model, facts.world_size)
    except InputError:
        return
    if plan is not None and plan.missing_bytes:
        yield disk_problem(plan, facts.nearest_place("run.dir"))


def disk_problem(plan: DiskPlan, place: str) -> Problem:
    """Return the problem of a run that doesn't fit: path, needed, free and cure."""
    own = f" and {readable(plan.reused_bytes)} in checkpoints of this run"
    message = (
        f"{real(plan.folder)} has {readable(plan.free_bytes)} free"
        f"{own if plan.reused_bytes else ''}, and the run needs"
        f" {readable(plan.needed_bytes)}: {str(plan).rpartition(':')[0]}."
    )
    cure = (
        f"Free {readable(plan.missing_bytes)}, choose another run.dir, or keep less:"
        " checkpoint.keep_last, checkpoint.keep_best, or method lora."
    )
    return Problem(place, "run.dir", message, cure)


DISK_KEYS = ("run", "model", "method", "train", "data", "checkpoint", "evaluate", "export")
"""The sections that the plan is made of."""


def readable(num_bytes: float) -> str:
    """Return bytes in the unit a reader thinks in: `95.4 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
