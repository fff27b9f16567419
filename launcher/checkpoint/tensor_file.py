"""Safetensors files written tensor by tensor: the memory of one tensor, whatever the model's size.

safetensors' own `save_file` wants all tensors of a file at once. The format is a JSON header and
the bytes: https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from launcher.files.write import FileRecord, NewFile

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file; `load` is called when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_tensors(path: Path, entries: Sequence[Entry], mode: int = 0o600) -> FileRecord:
    """Write one safetensors file and flush it; return its size and digest."""
    with NewFile(path, mode) as file:
        file.write(_header(entries))
        for entry in entries:
            if entry.num_bytes:
                values = entry.load().detach().to(device="cpu", dtype=entry.dtype).contiguous()
                file.write(values.view(-1).view(torch.uint8).numpy().data)
        return file.finish()


def _header(entries: Sequence[Entry]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.num_bytes
        table[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(table).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data start aligned
    return struct.pack("<Q", len(encoded)) + encoded
