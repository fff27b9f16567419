"""The real DeepSpeed engine through Accelerate, on whatever device this machine has."""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs
from torch import nn

from launcher.errors import InputError, Problem, TrainingError
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.schema import Dtype
from launcher.train.optim import set_learning_rate
from launcher.world import World

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

COLLECTIVE_MARGIN = timedelta(seconds=5)
"""The watchdog goes first, since it names the late rank; without one, the collective gives up."""
MIXED_PRECISION: dict[Dtype, str] = {"bfloat16": "bf16", "float16": "fp16", "float32": "no"}


def start_accelerator(resolved: ResolvedRun, world: World) -> Accelerator:
    """Join the other ranks; must come before the model, which ZeRO-3 partitions while it loads.

    A plain `Accelerator()` under `accelerate launch --use_deepspeed` silently makes worlds of one
    on a machine without a GPU, so the backend is named and the world is compared.

    Raises:
        InputError: the device can't compute in the recipe's dtype.
        TrainingError: the ranks did not become one world.
    """
    _check_dtype(resolved.recipe.model.dtype)
    plugin = DeepSpeedPlugin(
        hf_ds_config=resolved.deepspeed, zero3_init_flag=resolved.zero_stage == 3
    )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    accelerator = Accelerator(
        deepspeed_plugin=plugin,
        mixed_precision=MIXED_PRECISION[resolved.recipe.model.dtype],
        gradient_accumulation_steps=resolved.batch.gradient_accumulation_steps,
        kwargs_handlers=[
            InitProcessGroupKwargs(backend=backend, timeout=collective_timeout(resolved))
        ],
    )
    if (accelerator.num_processes, accelerator.process_index) != (world.world_size, world.rank):
        raise TrainingError(
            f"rank {world.rank} of {world.world_size} found itself as rank"
            f" {accelerator.process_index} of {accelerator.num_processes}: the processes did not"
            " join one group. Start them with `launcher run` or `accelerate launch`."
        )
    return accelerator


def collective_timeout(resolved: ResolvedRun) -> timedelta:
    """Return how long a collective waits for a rank, from the recipe's one timeout."""
    return timedelta(seconds=resolved.recipe.run.timeout_seconds) + COLLECTIVE_MARGIN


def set_timeouts(timeout: timedelta) -> None:
    """Give every process group the same timeout: DeepSpeed makes some with torch's own default.

    That is ten minutes with NCCL, which a rank may need to write an export.
    """
    for group in dist.distributed_c10d._world.pg_map:
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def _check_dtype(dtype: Dtype) -> None:
    from deepspeed.accelerator import get_accelerator

    if dtype == "float16" and not get_accelerator().is_fp16_supported():
        raise InputError(
            Problem(
                "model.dtype",
                "",
                '"float16" can\'t be computed on this device.',
                'Write "bfloat16", or "float32" on a CPU.',
            )
        )


def shard(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    resolved: ResolvedRun,
) -> DeepSpeedEngine:
    """Hand model and optimizer to DeepSpeed; the schedule stays ours (Accelerate would step it
    once a rank).

    Raises:
        TrainingError: what came back is not a DeepSpeed engine at the stage that was asked for.
    """
    _import_muon_uncompiled()
    # Some of DeepSpeed's wrappers take a step on zero gradients to allocate the moments: at rate
    # zero it moves nothing.
    set_learning_rate(optimizer.param_groups, 0.0)
    engine, _ = accelerator.prepare(model, optimizer)
    set_timeouts(collective_timeout(resolved))
    found = type(engine).__name__
    stage = engine.zero_optimization_stage() if found == "DeepSpeedEngine" else None
    if stage != resolved.zero_stage:
        raise TrainingError(
            f"asked for a DeepSpeedEngine at ZeRO stage {resolved.zero_stage}, got {found} at"
            f" stage {stage}: unset ACCELERATE_USE_CPU and other ACCELERATE_ variables."
        )
    if stage == 0 and resolved.recipe.model.dtype != "float32":
        # Here that step is also counted, and Adam's bias correction would start at step two: the
        # first update would be 0.74 of what it should be.
        engine.optimizer.optimizer.state.clear()
    scaler: Any = getattr(engine.optimizer, "loss_scaler", None)
    if hasattr(scaler, "raise_error_at_min_scale"):
        # Our own limit of skipped updates stops such a run, and says where it was.
        scaler.raise_error_at_min_scale = False
    return engine


def _import_muon_uncompiled() -> None:
    """Spare each start a second: to ask if our optimizer is Muon, DeepSpeed compiles that one.

    The decorator at its kernels alone loads all of torch._inductor. No run uses them.
    """
    from deepspeed.runtime import compiler

    compile_kernels = compiler.compile
    compiler.compile = lambda *_, **__: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_kernels


def gradient_norm(engine: DeepSpeedEngine) -> float:
    """Return the global norm of the last step's gradients before clipping; NaN if unknown."""
    norm: Any = engine.get_global_grad_norm()
    return float("nan") if norm is None else float(norm)
