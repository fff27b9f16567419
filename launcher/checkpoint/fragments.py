"""Weights and moments of a checkpoint, cut into fragments that fit any number of ranks.

A fragment is a run of consecutive elements of one flattened tensor. Every rank writes those that it
owns, under names which say where they belong, so whatever cuts a later run makes (another number
of ranks, another ZeRO stage) finds its elements in the files of the earlier one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from launcher.checkpoint.manifest import Manifest, rank_file
from launcher.checkpoint.tensor_file import Entry, write_tensors
from launcher.errors import TrainingError
from launcher.files.write import FileRecord

WEIGHT = "weight"
"""Kind of the float32 master weights; moments go by the optimizer's own names (`exp_avg`)."""
BUFFER = "buffer"
"""Kind of a module's buffers, whole."""
OPAQUE = "opaque"
"""Kind of optimizer state that can't be cut: `start` is the number of its flat group."""


@dataclass(frozen=True)
class Fragment:
    """Elements `start` to `start + tensor.numel()` of one flattened tensor."""

    kind: str
    name: str
    start: int
    tensor: Tensor

    @property
    def key(self) -> str:
        """The name in the file."""
        return f"{self.kind}/{self.start}/{self.name}"


def write_fragments(path: Path, fragments: Sequence[Fragment]) -> FileRecord:
    """Write one rank's fragments and flush them; return size and digest of the file."""

    def entry(fragment: Fragment) -> Entry:
        tensor = fragment.tensor
        return Entry(fragment.key, tensor.dtype, tuple(tensor.shape), lambda: tensor)

    return write_tensors(path, [entry(fragment) for fragment in fragments])


class SavedTensors:
    """The tensors of a committed checkpoint, read piece by piece from whichever files hold them.

    Raises:
        TrainingError: a file that verified is not one that a run writes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.shapes = {name: tuple(shape) for name, shape in manifest.parameters.items()}
        self._files: list[Any] = []
        self._held: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        self._stack = contextlib.ExitStack()
        for rank in range(manifest.world_size):
            path = folder / rank_file(rank)
            try:
                self._open(path)
            except (SafetensorError, ValueError) as error:
                self._stack.close()
                raise TrainingError(
                    f"{path}: holds no fragments of a run ({error}), though its digest is that of"
                    " the manifest: somebody wrote both. Start over with --fresh."
                ) from error

    def _open(self, path: Path) -> None:
        file = self._stack.enter_context(safe_open(path, framework="pt"))
        self._files.append(file)
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            kind, start, name = key.split("/", 2)
            numel = torch.Size(file.get_slice(key).get_shape()).numel()
            self._held.setdefault((kind, name), []).append((int(start), numel, file, key))

    def __enter__(self) -> SavedTensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def has(self, kind: str, name: str) -> bool:
        """Return whether there is anything of this kind and name."""
        return (kind, name) in self._held

    def names(self, kind: str) -> list[str]:
        """Return the names of all tensors of a kind."""
        return sorted(name for held, name in self._held if held == kind)

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Return `numel` elements of a flattened tensor from `start` on, on the CPU.

        Raises:
            TrainingError: some of them are in no file.
        """
        pieces, position = [], start
        for held_start, held_numel, file, key in sorted(
            self._held.get((kind, name), []), key=lambda held: held[0]
        ):
            if held_start <= position < min(held_start + held_numel, start + numel):
                end = min(held_start + held_numel, start + numel)
                pieces.append(file.get_slice(key)[position - held_start : end - held_start])
                position = end
        if position < start + numel:
            raise TrainingError(
                f"{self.folder}: elements {position} to {start + numel} of {kind} {name} are in"
                " none of its files."
            )
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def whole(self, kind: str, name: str) -> Tensor:
        """Return a tensor in its own shape."""
        shape = torch.Size(self.shapes[name])
        return self.read(kind, name, 0, shape.numel()).reshape(shape)

    def buffer(self, name: str) -> Tensor:
        """Return a module's buffer."""
        ((_, _, file, key),) = self._held[(BUFFER, name)]
        tensor: Tensor = file.get_tensor(key)
        return tensor

    def opaque(self, rank: int) -> dict[int, dict[str, Tensor]]:
        """Return the optimizer state that one rank saved as it was, by flat group and key."""
        groups: dict[int, dict[str, Tensor]] = {}
        file = self._files[rank]
        for (kind, name), held in self._held.items():
            for start, _, holder, key in held:
                if kind == OPAQUE and holder is file:
                    groups.setdefault(start, {})[name] = file.get_tensor(key)
        return groups
