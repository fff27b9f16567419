"""Says on one screen what a resolved run will do."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.errors import InputError, Problem
from launcher.files.read import real
from launcher.plan.disk import DiskPlan, disk_problem, existing_folder, plan_disk, readable
from launcher.plan.rows import missing_files, training_rows
from launcher.plan.shapes import Trainable, count_trainable, read_shapes, targets
from launcher.recipe.batch import BatchPlan
from launcher.recipe.check import has_validation
from launcher.recipe.extends import display
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.schema import LoraMethod, QloraMethod, TrainSection
from launcher.recipe.steps import StepPlan, plan_steps, warmup_steps
from launcher.recipe.tree import DEFAULT

UNKNOWN = "known after prepare"


def print_plan(resolved: ResolvedRun, console: Console | None = None) -> None:
    """Print the plan of a run and its warnings."""
    console = console or Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, text in plan_lines(resolved):
        table.add_row(label, Text(text))
    console.print(table)
    for warning in (*resolved.warnings, *file_warnings(resolved)):
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def plan_lines(resolved: ResolvedRun) -> list[tuple[str, str]]:
    """Return (label, text) for each line of the plan.

    Raises `InputError` for what only the model's files and the number of rows show.
    """
    recipe = resolved.recipe
    return [
        ("run", f"{recipe.run.name} ({display(resolved.source)}), seed {recipe.run.seed}"),
        ("model", f"{recipe.model.path}, {recipe.model.task}"),
        ("method", _method(resolved)),
        ("trainable", _trainable(resolved)),
        ("batch", _batch(resolved.batch)),
        ("steps", _steps(resolved)),
        ("learning rate", _learning_rate(resolved)),
        ("precision", _precision(resolved)),
        ("sharding", _sharding(resolved)),
        ("evaluation", _evaluation(resolved)),
        ("checkpoints", _checkpoints(resolved)),
        ("disk", _disk(resolved)),
        ("folder", str(Path(recipe.run.dir) / recipe.run.name)),
    ]


def _batch(batch: BatchPlan) -> str:
    ranks = f"{batch.world_size} rank{'s' * (batch.world_size > 1)}"
    passes = f"{batch.micro_batch_size} micro x {batch.gradient_accumulation_steps} accumulation"
    return f"{passes} x {ranks} = {batch.global_batch_size} sequences per step"


def _method(resolved: ResolvedRun) -> str:
    method = resolved.recipe.method
    if not isinstance(method, LoraMethod):
        return method.type
    wanted = method.target_modules
    where = wanted if isinstance(wanted, str) else ", ".join(wanted)
    extras = [name for name in ("dora", "rslora") if getattr(method, name)]
    if isinstance(method, QloraMethod):
        double = method.double_quantization and method.quantization != "int8"
        extras.insert(0, method.quantization + " base" + ", double quantisation" * double)
    text = f"{method.type}: rank {method.rank}, alpha {method.alpha:g} on {where}"
    return ", ".join([text, *extras])


def _trainable(resolved: ResolvedRun) -> str:
    counted = trainable(resolved)
    if counted is None:
        return UNKNOWN
    whole = counted.num_parameters
    if resolved.recipe.method.type in ("lora", "qlora"):
        whole += counted.num_trainable
    head = " and a new head" if counted.new_head else ""
    share = 100 * counted.num_trainable / max(1, whole)
    return f"{counted.num_trainable:,} of {whole:,} parameters ({share:.2f} %){head}"


def trainable(resolved: ResolvedRun) -> Trainable | None:
    """Return the counts of a local model; None for a hub model or one without safetensors.

    Raises `InputError` where the adapters would go nowhere.
    """
    shapes = read_shapes(resolved.model.folder) if resolved.model else None
    if shapes is None or resolved.model is None:
        return None
    method = resolved.recipe.method
    if isinstance(method, LoraMethod) and not isinstance(method.target_modules, str):
        for target in method.target_modules:
            only = method.model_copy(update={"target_modules": (target,)})
            if not any(True for _ in targets(only, shapes, set())):
                raise InputError(_no_target(resolved, target, list(shapes)))
    return count_trainable(resolved.recipe, shapes, resolved.model.config)


def _no_target(resolved: ResolvedRun, target: str, names: list[str]) -> Problem:
    parts = sorted({name.split(".")[-2] for name in names if name.count(".") > 0})
    near = difflib.get_close_matches(target, parts, n=3, cutoff=0.0)
    place = resolved.origins.get("method.target_modules", "default")
    message = f'"{target}" matches no weight matrix of the model.'
    return Problem(place, "method.target_modules", message, f"Nearest: {', '.join(near)}.")


def step_plan(resolved: ResolvedRun) -> StepPlan | None:
    """Return the step counts where the number of rows is known or doesn't matter."""
    train = resolved.recipe.train
    num_rows = training_rows(resolved.recipe.data)
    if num_rows is None:
        return None
    return plan_steps(train, num_rows, resolved.origins.get("train.warmup_steps", "default"))


def _steps(resolved: ResolvedRun) -> str:
    train, plan = resolved.recipe.train, step_plan(resolved)
    if plan is None:
        if train.max_steps is None:
            return f"{train.num_epochs:g} epochs; steps {UNKNOWN}"
        return f"{train.max_steps}, of which {warmup_steps(train, train.max_steps)} warm up"
    text = f"{plan.total_steps}, of which {plan.warmup_steps} warm up"
    rows = f"{plan.num_samples:,} rows, {plan.steps_per_epoch} steps per epoch"
    return f"{text} ({rows}, if prepare drops none)"


def _learning_rate(resolved: ResolvedRun) -> str:
    train: TrainSection = resolved.recipe.train
    text = f"{train.learning_rate:g}, {train.schedule}"
    if train.schedule == "constant":
        return text
    if train.schedule == "wsd":
        text += f" (last {100 * train.decay_ratio:g} % decay)"
    return f"{text} to {train.min_learning_rate_ratio * (train.learning_rate or 0):g}"


def _precision(resolved: ResolvedRun) -> str:
    recipe = resolved.recipe
    clip = resolved.deepspeed["gradient_clipping"]
    clipping = f"gradient norm clipped at {clip:g}" if clip else "no gradient clipping"
    saved = ", activations recomputed" if recipe.model.gradient_checkpointing else ""
    return f"{recipe.model.dtype}, {recipe.train.optimizer}, {clipping}{saved}"


def _sharding(resolved: ResolvedRun) -> str:
    zero = resolved.deepspeed["zero_optimization"]
    devices = [
        f"{what} to {zero[key]['device']}"
        for key, what in (("offload_optimizer", "optimizer"), ("offload_param", "parameters"))
        if zero.get(key, {}).get("device", "none") != "none"
    ]
    offload = f"offload {' and '.join(devices)}" if devices else "no offload"
    return f"ZeRO stage {resolved.zero_stage} ({resolved.recipe.deepspeed}), {offload}"


def _evaluation(resolved: ResolvedRun) -> str:
    recipe = resolved.recipe
    if not has_validation(recipe):
        return "none (no validation rows)"
    text = f"at the start, {_interval(recipe.evaluate.every_steps)} and at the end"
    stopping = recipe.early_stopping
    if stopping is not None:
        text += f"; stops after {stopping.patience} without a better {stopping.monitor}"
    return text


def _checkpoints(resolved: ResolvedRun) -> str:
    checkpoint = resolved.recipe.checkpoint
    best = " and the best" if checkpoint.keep_best and has_validation(resolved.recipe) else ""
    return f"{_interval(checkpoint.every_steps)}; the last {checkpoint.keep_last}{best} kept"


def _disk(resolved: ResolvedRun) -> str:
    plan = disk_of(resolved)
    if plan is None:
        folder = existing_folder(Path(resolved.recipe.run.dir))
        free = readable(shutil.disk_usage(folder).free)
        return f"{UNKNOWN}; {free} free in {real(folder)}"
    return f"{plan} of {readable(plan.free_bytes)} free in {real(plan.folder)}"


def disk_of(resolved: ResolvedRun) -> DiskPlan | None:
    """Return what a run needs on disk; None for a hub model or one without safetensors."""
    return plan_disk(resolved.recipe, resolved.model, resolved.world_size)


def _interval(every_steps: int | None) -> str:
    return f"every {every_steps} steps" if every_steps else "every epoch"


def file_warnings(resolved: ResolvedRun) -> list[Problem]:
    """Return what isn't there yet and has to be when the run starts: files, and room."""
    found = [
        Problem(resolved.origins.get(key, DEFAULT), key, f"{path} is not there (yet).")
        for key, path in missing_files(resolved.recipe.data).items()
    ]
    disk = disk_of(resolved)
    if disk is not None and disk.missing_bytes:
        found.append(disk_problem(disk, resolved.origins.get("run.dir", "default")))
    return found
