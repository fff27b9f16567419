"""Safetensors files written tensor by tensor: the memory of one tensor, whatever the model's size.

safetensors' own `save_file` wants all tensors of a file at once. The format is a JSON header and
the bytes: https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from launcher.checkpoint.consolidate import LazyTensor

MAX_SHARD_BYTES = 5_000_000_000
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_model(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    dtype: torch.dtype,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Write tensors as one file, or as shards with an index; return the bytes of the tensors."""
    plan = list(_shards(tensors, dtype, max_shard_bytes))
    if len(plan) == 1:
        write_file(folder / SINGLE_FILE, plan[0], dtype)
    weight_map = {}
    for number, shard in enumerate(plan, start=1):
        if len(plan) > 1:
            name = f"model-{number:05d}-of-{len(plan):05d}.safetensors"
            write_file(folder / name, shard, dtype)
            weight_map.update(dict.fromkeys(shard, name))
    total = sum(_num_bytes(tensor, dtype) for tensor in tensors.values())
    if weight_map:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def write_file(path: Path, tensors: Mapping[str, LazyTensor], dtype: torch.dtype) -> None:
    """Write one safetensors file; only one tensor is in memory at any time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + _num_bytes(tensor, dtype)
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data start aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors.values():
            values = tensor.load().detach().to(device="cpu", dtype=dtype).contiguous()
            values.view(-1).view(torch.uint8).numpy().tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _shards(
    tensors: Mapping[str, LazyTensor], dtype: torch.dtype, max_bytes: int
) -> Iterator[dict[str, LazyTensor]]:
    shard: dict[str, LazyTensor] = {}
    used = 0
    for name, tensor in tensors.items():
        size = _num_bytes(tensor, dtype)
        if shard and used + size > max_bytes:
            yield shard
            shard, used = {}, 0
        shard[name] = tensor
        used += size
    yield shard


def _num_bytes(tensor: LazyTensor, dtype: torch.dtype) -> int:
    return torch.Size(tensor.shape).numel() * dtype.itemsize
