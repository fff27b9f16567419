"""A model's tensors as one safetensors file, or as shards with transformers' index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from launcher.checkpoint.consolidate import LazyTensor
from launcher.checkpoint.tensor_file import Entry, write_tensors
from launcher.files.write import replace_text

MAX_SHARD_BYTES = 5_000_000_000
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


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
        replace_text(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n", mode=0o666)
    return total


def write_file(path: Path, tensors: Mapping[str, LazyTensor], dtype: torch.dtype) -> None:
    """Write one safetensors file; only one tensor is in memory at any time."""
    entries = [Entry(name, dtype, tensor.shape, tensor.load) for name, tensor in tensors.items()]
    write_tensors(path, entries, mode=0o666)  # for others to read, as far as the umask allows


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
