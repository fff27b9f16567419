"""Headers of a model's weights are read as they are or refused, never with a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from launcher.errors import InputError
from launcher.recipe.weight_files import BITS, read_header, weight_files

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path: Path, header: object, data_bytes: int = 24) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(data_bytes))
    return path


def test_every_type_of_torch_is_known(tmp_path: Path) -> None:
    dtypes = (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
        torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
    )  # fmt: skip
    save_file({str(d): torch.zeros(2, 3, dtype=d) for d in dtypes}, tmp_path / "w.safetensors")
    header = read_header(tmp_path / "w.safetensors")
    assert {tensor.shape for tensor in header.values()} == {(2, 3)}
    assert {BITS[header[str(d)].dtype] for d in dtypes} == {8, 16, 32, 64}


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"3", b"{}", b"null", b"[" * 5000, b'{"a": ' + b"9" * 5000 + b"}",
        {"a": 1}, {"a": []}, {"a": {}}, {"a": {**ENTRY, "shape": 3}},
        {"a": {**ENTRY, "shape": ["2", 3]}}, {"a": {**ENTRY, "shape": [-2, -3]}},
        {"a": {**ENTRY, "shape": [2, True]}}, {"a": {**ENTRY, "shape": [10**400, 1]}},
        {"a": {**ENTRY, "dtype": "F33"}}, {"a": {**ENTRY, "dtype": 32}},
        {"a": {**ENTRY, "data_offsets": [0]}}, {"a": {**ENTRY, "data_offsets": [24, 0]}},
        {"a": {**ENTRY, "data_offsets": [0, 25]}}, {"a": {**ENTRY, "data_offsets": [8, 32]}},
        {"a": ENTRY, "b": ENTRY}, {"__metadata__": {}},
    ],
)  # fmt: skip
def test_headers_of_other_shapes_are_refused(header: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has an unreadable safetensors header"):
        read_header(write(tmp_path / "w.safetensors", header))


@pytest.mark.parametrize(
    "index",
    [
        "", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}',
        '{"weight_map": {"a": "../other.safetensors"}}', '{"weight_map": {"a": "/dev/zero"}}',
        '{"weight_map": {"a": ".."}}', '{"weight_map": {"a": ""}}', "[" * 5000,
    ],
)  # fmt: skip
def test_indexes_of_other_shapes_are_refused(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"is not an index|outside its folder|is missing"):
        weight_files(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_weights_that_are_no_file_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    (file,) = weight_files(tmp_path)
    with pytest.raises(InputError, match=f"is a {kind}, not a file"):
        read_header(file)
