"""What is wrong with a model folder is said before anything is loaded, by name and number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launcher.errors import InputError
from launcher.model.folder import check_shapes, model_folder, read_headers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, tmp_path / "model.safetensors")
    return tmp_path


def _problem(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_headers(folder)
    return str(caught.value)


def test_names_and_shapes_without_values(folder: Path) -> None:
    headers = read_headers(folder)
    assert {name: tensor.shape for name, tensor in headers.items()} == {"a": (2, 3), "b": (4,)}


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in _problem(folder)


def test_config_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{,}")
    assert "config.json: model.path: is not JSON" in _problem(folder)


def test_every_absent_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = _problem(folder)
    assert "shard model-1.safetensors is missing" in message
    assert "shard model-2.safetensors is missing" in message


def test_truncated_shard_has_both_sizes(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    message = _problem(folder)
    assert f"has {len(whole) - 5} bytes where its header says {len(whole)}" in message


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64])
def test_not_safetensors_at_all(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "is not a whole safetensors file" in _problem(folder)


def test_lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n"
    (folder / "model.safetensors").write_text(pointer)
    assert "Run `git lfs pull`." in _problem(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = _problem(folder)
    assert "pytorch_model.bin" in message
    assert "Convert to safetensors" in message


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in _problem(folder)


def test_every_other_shape_is_named(folder: Path) -> None:
    expected = {"bert.a": (5, 3), "b": (9,)}
    with pytest.raises(InputError) as caught:
        check_shapes(folder, read_headers(folder), expected, "bert")
    first, second = map(str, caught.value.problems)
    assert "a has shape [2, 3]; the model needs [5, 3]" in first
    assert "number of labels" in first
    assert "b has shape [4]; the model needs [9]" in second


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_paths_are_not_taken_for_hub_names(path: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        model_folder(path)


def test_hub_name_that_is_not_in_the_cache() -> None:
    with pytest.raises(InputError, match="launcher prepare"):
        model_folder("some-owner/some-model")
