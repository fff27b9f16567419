"""What an export must be before it is called done: complete, whole, and the model that was trained.

Weights that are missing, empty or untouched load without an error elsewhere, so they are looked for
here, in the files as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from launcher.checkpoint.consolidate import LazyTensor
from launcher.errors import TrainingError

Shapes = Mapping[str, tuple[int, ...]]


def only_trained(found: Mapping[str, LazyTensor], names: Sequence[str]) -> dict[str, LazyTensor]:
    """Return the tensors that were trained; raise TrainingError if the checkpoint lacks any."""
    lost = [name for name in names if name not in found]
    if lost:
        raise TrainingError(
            f"the checkpoint lacks {len(lost)} of {len(names)} trained tensors: {lost[:5]}."
        )
    return {name: found[name] for name in names}


def check_sources(tensors: Mapping[str, LazyTensor], shapes: Shapes) -> None:
    """Raise TrainingError unless every tensor of the model is at hand, whole."""
    missing = [name for name in shapes if name not in tensors]
    wrong = [
        f"{name} {list(tensor.shape)} instead of {list(shapes[name])}"
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    if missing or wrong:
        raise TrainingError(
            "the checkpoint's tensors don't make the model: "
            f"{len(missing)} missing {missing[:5]}, {len(wrong)} of another shape {wrong[:5]}."
        )


def check_files(folder: Path, shapes: Shapes) -> None:
    """Read the headers back: the model's names exactly, none twice, none empty, right shapes.

    `shapes` has tied tensors once, so one that was written under two names is found, too.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if name in found:
                    raise TrainingError(f"{path.name}: {name} was written twice.")
                found[name] = tuple(file.get_slice(name).get_shape())
    empty = [name for name, shape in found.items() if torch.Size(shape).numel() == 0]
    if empty or found != dict(shapes):
        odd = sorted(set(found.items()) ^ set(shapes.items()))
        raise TrainingError(f"{folder.name}: empty tensors {empty[:5]}; differing {odd[:5]}.")


def adapter_moved(adapter_file: Path) -> bool:
    """Tell whether an adapter does anything: LoRA's B starts from zero."""
    with safe_open(adapter_file, framework="pt") as file:
        return any(
            bool(file.get_tensor(name).any())
            for name in file.keys()  # noqa: SIM118 - not a dict
            if ".lora_B" in name or ".lora_embedding_A" in name or ".lora_" not in name
        )


def require_change(changed: bool, step: int) -> None:
    """Raise TrainingError for trained weights that equal the base model's."""
    if not changed and step > 0:
        raise TrainingError(
            f"no trained tensor of step {step} differs from the base model: nothing was learned."
        )


def require_same_answers(kind: str, step: int, measured: float, tolerance: float) -> None:
    """Raise TrainingError when reloaded weights answer differently from what was trained."""
    if not measured <= tolerance:
        raise TrainingError(
            f"the {kind} weights of step {step}, read back, give other logits than the trained "
            f"model: they differ by {measured:.3g} of the largest, allowed are {tolerance:g}. "
            "Nothing was exported; the checkpoint is untouched."
        )
