"""A copy in host memory of what a rank has to save, so that training can go on while it is written.

The buffers are made once and used again by every save; those of a GPU's state are pinned, which
lets the device copy into them at full speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import psutil
import torch
from torch import Tensor

from launcher.checkpoint.fragments import Fragment

MAX_SHARE_OF_FREE_MEMORY = 0.8


class Snapshot:
    """Copies fragments into buffers of its own."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, fragments: Iterable[Fragment]) -> list[Fragment]:
        """Copy every fragment; what is returned no longer changes while the model trains on."""
        taken = []
        on_device = False
        for fragment in fragments:
            buffer = self._buffer(fragment)
            buffer.copy_(fragment.tensor, non_blocking=True)
            on_device = on_device or fragment.tensor.is_cuda
            taken.append(replace(fragment, tensor=buffer))
        if on_device:
            torch.cuda.current_stream().synchronize()
        return taken

    def fits(self, num_bytes: int, ranks_on_node: int) -> bool:
        """Return whether the node's memory has room for the copies of all its ranks."""
        free: int = psutil.virtual_memory().available
        return num_bytes * ranks_on_node <= MAX_SHARE_OF_FREE_MEMORY * free

    def _buffer(self, fragment: Fragment) -> Tensor:
        source = fragment.tensor
        found = self._buffers.get(fragment.key)
        if found is None or found.shape != source.shape or found.dtype != source.dtype:
            found = torch.empty(
                source.shape, dtype=source.dtype, device="cpu", pin_memory=source.is_cuda
            )
            self._buffers[fragment.key] = found
        return found
