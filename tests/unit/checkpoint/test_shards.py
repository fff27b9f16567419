"""Our streamed files are safetensors to everyone else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from launcher.checkpoint.consolidate import held
from launcher.checkpoint.shards import write_model


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "a.weight": torch.randn(7, 3),
        "a.bias": torch.randn(7),
        "scalar": torch.tensor(2.5),
        "turned": torch.randn(4, 6).T,
        "b": torch.randn(100),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_file(tensors: dict[str, Tensor], dtype: torch.dtype, tmp_path: Path) -> None:
    lazy = {name: held(tensor) for name, tensor in tensors.items()}
    size = write_model(tmp_path, lazy, dtype)
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor.to(dtype)), name
    assert size == sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_shards_and_index(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    lazy = {name: held(tensor) for name, tensor in tensors.items()}
    write_model(tmp_path, lazy, torch.float32, max_shard_bytes=200)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, 4)]
    assert set(index["weight_map"]) == set(tensors)
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name]), name
    sizes = [sum(t.nbytes for t in load_file(tmp_path / f).values()) for f in files]
    assert max(sizes[:2]) <= 200, "only a tensor larger than a shard may exceed it"
    assert index["metadata"]["total_size"] == sum(sizes)


def test_one_tensor_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    def watched(name: str) -> Tensor:
        alive.append(name)
        return torch.ones(10)

    from launcher.checkpoint.consolidate import LazyTensor

    lazy = {n: LazyTensor((10,), lambda n=n: watched(n)) for n in "abc"}
    write_model(tmp_path, lazy, torch.float32)
    assert alive == ["a", "b", "c"]
