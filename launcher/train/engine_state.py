"""DeepSpeed's state as named fragments: where each wrapper keeps masters and moments, in one place.

DeepSpeed's own checkpoints are pickles that fit one number of ranks and one ZeRO stage. What they
hold is this: the float32 master of every trained element, its two Adam moments, and a few counters.
Here each rank finds those it owns, as views of the live memory, whatever the stage:

- stage 0 in float32: torch's own AdamW on the parameters; in 16 bits `FP16_UnfusedOptimizer`,
  which holds one float32 clone a parameter. Every rank has everything, so the ranks share it out.
- stage 1 and 2: `param._hp_mapping` says which part of a parameter lies where in this rank's flat
  partition (deepspeed/utils/tensor_fragment.py).
- stage 3: `grad_position` says where this rank's part of a parameter lies in its sub-group
  (deepspeed/runtime/zero/stage3.py); the last ranks' parts may be padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from launcher.checkpoint.fragments import BUFFER, OPAQUE, WEIGHT, Fragment, SavedTensors
from launcher.checkpoint.manifest import Manifest
from launcher.errors import TrainingError

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

MOMENTS = ("exp_avg", "exp_avg_sq")
LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


@dataclass(frozen=True)
class Piece:
    """A part of a trained parameter that this rank holds the float32 master of."""

    name: str
    start: int
    """First element within the flattened parameter."""
    master: Tensor
    """The tensor that the optimizer knows, of which the part is a run of elements."""
    offset: int
    numel: int

    def of(self, tensor: Tensor) -> Tensor:
        """Return the part of the master, or of a moment of the same shape, as a view."""
        return tensor.data.view(-1).narrow(0, self.offset, self.numel)


def trained_shapes(engine: DeepSpeedEngine) -> dict[str, list[int]]:
    """Return the whole shape of every trained parameter."""
    return {name: list(_shape(parameter)) for name, parameter in _trained(engine.module)}


def optimizer_step(engine: DeepSpeedEngine) -> float | None:
    """Return how many updates the moments have seen; None before the first."""
    steps = {float(state["step"]) for state in engine.basic_optimizer.state.values() if state}
    assert len(steps) <= 1, f"tensors of one optimizer have seen {steps} updates"
    return steps.pop() if steps else None


def loss_scale(engine: DeepSpeedEngine) -> dict[str, float]:
    """Return the state of float16's dynamic loss scale; empty in other precisions."""
    if not engine.fp16_enabled():
        return {}
    scaler = _scaler(engine)
    return {name: float(getattr(scaler, name)) for name in LOSS_SCALE if hasattr(scaler, name)}


def fragments(engine: DeepSpeedEngine) -> Iterator[Fragment]:
    """Yield what this rank has to save, as views of live memory; together the ranks yield all."""
    optimizer = engine.basic_optimizer
    pieces = owned_pieces(engine)
    for piece in pieces:
        yield Fragment(WEIGHT, piece.name, piece.start, piece.of(piece.master))
        if is_elementwise(optimizer):
            state = optimizer.state.get(piece.master, {})
            for moment in MOMENTS:
                if moment in state:
                    yield Fragment(moment, piece.name, piece.start, piece.of(state[moment]))
    if not is_elementwise(optimizer):
        yield from _opaque(optimizer, pieces)
    if engine.global_rank == 0:
        for name, buffer in _buffers(engine.module):
            yield Fragment(BUFFER, name, 0, buffer)


def is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether moments belong to single elements; 8-bit ones are quantised in blocks."""
    return isinstance(optimizer, torch.optim.AdamW)


def owned_pieces(engine: DeepSpeedEngine) -> list[Piece]:
    """Return the parts of parameters that this rank saves: no element belongs to two ranks."""
    names = {id(parameter): name for name, parameter in _trained(engine.module)}
    stage = engine.zero_optimization_stage()
    pieces = list(_pieces(engine, names))
    if stage > 0:
        return pieces
    if is_elementwise(engine.basic_optimizer):  # every rank has all: each saves a share
        return pieces[engine.global_rank :: engine.world_size]
    return pieces if engine.global_rank == 0 else []


def _pieces(engine: DeepSpeedEngine, names: dict[int, str]) -> Iterator[Piece]:
    """Yield every part whose master this rank has."""
    wrapper, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 3:
        return _pieces_of_stage_3(wrapper, names)
    if stage > 0:
        return _pieces_of_stage_1_and_2(wrapper, names)
    parameters = [p for group in _parameters_of_stage_0(engine) for p in group]
    groups = engine.basic_optimizer.param_groups  # in the same order, the masters
    masters = [master for group in groups for master in group["params"]]
    return (
        Piece(names[id(parameter)], 0, master, 0, master.numel())
        for parameter, master in zip(parameters, masters, strict=True)
    )


def _parameters_of_stage_0(engine: DeepSpeedEngine) -> list[list[nn.Parameter]]:
    """Return the model's own parameters; in float32 they are the masters."""
    wrapper = engine.optimizer
    if wrapper is engine.basic_optimizer:
        return [group["params"] for group in wrapper.param_groups]
    parameters: list[list[nn.Parameter]] = wrapper.fp16_groups
    return parameters


def _pieces_of_stage_1_and_2(wrapper: Any, names: dict[int, str]) -> Iterator[Piece]:
    flat_groups = wrapper.single_partition_of_fp32_groups
    for parameters, flat in zip(wrapper.bit16_groups, flat_groups, strict=True):
        for parameter in parameters:
            found = parameter._hp_mapping
            if found is not None:
                here, there = found.lp_fragment_address, found.hp_fragment_address
                yield Piece(names[id(parameter)], here.start, flat, there.start, there.numel)


def _pieces_of_stage_3(wrapper: Any, names: dict[int, str]) -> Iterator[Piece]:
    for parameters in wrapper.fp16_groups:
        for parameter in parameters:
            group, offset, numel = wrapper.grad_position[wrapper.get_param_id(parameter)]
            start = numel * wrapper._get_param_partition_rank(parameter)
            real = min(numel, parameter.ds_numel - start)  # the rest is padding
            if real > 0:
                flat = wrapper.fp32_partitioned_groups_flat[group]
                yield Piece(names[id(parameter)], start, flat, offset, real)


@torch.no_grad()
def restore(engine: DeepSpeedEngine, saved: SavedTensors, manifest: Manifest) -> None:
    """Put saved masters, moments and counters into the live engine, then into its weights.

    Collective. The geometry may differ from the saved one, but for an optimizer whose state can't
    be cut. Raises TrainingError where the checkpoint doesn't hold the model's tensors.
    """
    _check_shapes(engine, saved)
    optimizer = engine.basic_optimizer
    # At stage 0 all ranks need what they shared out when saving.
    names = {id(parameter): name for name, parameter in _trained(engine.module)}
    pieces = list(_pieces(engine, names))
    for piece in pieces:
        part = saved.read(WEIGHT, piece.name, piece.start, piece.numel)
        piece.of(piece.master).copy_(part)
    if manifest.optimizer_step is not None:
        if is_elementwise(optimizer):
            for piece in pieces:
                state = _moments_of(optimizer, piece.master, manifest.optimizer_step)
                for moment in MOMENTS:
                    part = saved.read(moment, piece.name, piece.start, piece.numel)
                    piece.of(state[moment]).copy_(part)
        else:
            _restore_opaque(engine, saved, pieces, manifest.optimizer_step)
    for name, buffer in _buffers(engine.module):
        if saved.has(BUFFER, name):
            buffer.copy_(saved.buffer(name))
    if manifest.loss_scale:
        scaler = _scaler(engine)
        for name, value in manifest.loss_scale.items():
            setattr(scaler, name, type(getattr(scaler, name))(value))
    _refresh_weights(engine)


def _moments_of(optimizer: torch.optim.Optimizer, master: Tensor, step: float) -> dict[str, Tensor]:
    """Return the state of a master, made as torch makes it at the first update if need be."""
    state: dict[str, Tensor] = optimizer.state[master]
    if not state:
        fused = bool(optimizer.defaults.get("fused"))
        device = master.device if fused else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(master, memory_format=torch.preserve_format)
    state["step"].fill_(step)
    return state


def _refresh_weights(engine: DeepSpeedEngine) -> None:
    """Let the weights that the model computes with follow their masters, as an update does."""
    wrapper = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:
        wrapper._partition_all_parameters()
        timers: set[str] = set()
        for group in range(len(wrapper.fp16_groups)):
            wrapper._reassign_or_swap_out_partitioned_parameters(group)
        wrapper._post_step(timers)
    elif stage > 0:
        wrapper.update_lp_params()
    else:
        parameters, groups = _parameters_of_stage_0(engine), engine.basic_optimizer.param_groups
        for own, group in zip(parameters, groups, strict=True):
            for parameter, master in zip(own, group["params"], strict=True):
                parameter.data.copy_(master)


def _opaque(optimizer: torch.optim.Optimizer, pieces: list[Piece]) -> Iterator[Fragment]:
    """Yield the whole state of every flat group as it is: it fits this geometry alone."""
    for number, master in enumerate(_masters(pieces)):
        for key, value in optimizer.state.get(master, {}).items():
            if isinstance(value, Tensor) and key != "step":
                yield Fragment(OPAQUE, key, number, value.data)


def _restore_opaque(
    engine: DeepSpeedEngine, saved: SavedTensors, pieces: list[Piece], step: float
) -> None:
    whole_on_rank_0 = engine.zero_optimization_stage() == 0
    groups = saved.opaque(0 if whole_on_rank_0 else engine.global_rank)
    for number, master in enumerate(_masters(pieces)):
        state = engine.basic_optimizer.state[master]
        for key, value in groups[number].items():
            state[key] = value.to(master.device)
        state["step"] = int(step)


def _masters(pieces: list[Piece]) -> list[Tensor]:
    return list({id(piece.master): piece.master for piece in pieces}.values())


def _check_shapes(engine: DeepSpeedEngine, saved: SavedTensors) -> None:
    live = {name: tuple(shape) for name, shape in trained_shapes(engine).items()}
    names = sorted(live.keys() | saved.shapes)
    differing = [name for name in names if live.get(name) != saved.shapes.get(name)]
    if differing:
        name = differing[0]
        there, here = saved.shapes.get(name, "absent"), live.get(name, "absent")
        raise TrainingError(
            f"{saved.folder}: {len(differing)} tensors are not those of this model; the first is"
            f" {name}, {there} there and {here} here."
        )


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the whole shape; under ZeRO-3 a tensor's own is empty and `ds_shape` the real one."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that belong to the weights: those that a state dict has."""
    for prefix, owner in module.named_modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if name not in owner._non_persistent_buffers_set:
                yield f"{prefix}.{name}".lstrip("."), buffer


def _scaler(engine: DeepSpeedEngine) -> Any:
    wrapper = engine.optimizer
    return wrapper.loss_scaler if hasattr(wrapper, "loss_scaler") else wrapper.loss_scale_config
