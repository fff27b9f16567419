"""The safetensors files of a model folder, and what their headers say: names, types, shapes.

The format is 8 bytes of length and a JSON header (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from launcher.errors import InputError, Problem
from launcher.files.read import Record, opened, parse_json, read_json, why_unreadable

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Of the format's types (https://docs.rs/safetensors, Dtype)."""
LFS_MAGIC = b"version https://git-lfs"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of a checkpoint lies and what it is, without its values."""

    file: Path
    dtype: str
    """As the format calls it: F32, BF16."""
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """Return the weights of a model folder; none where it has no safetensors.

    Raises:
        InputError: the index is none, names files elsewhere, or names files that aren't there.
    """
    index = folder / INDEX
    if not index.exists():
        return [folder / WEIGHTS] if (folder / WEIGHTS).exists() else []
    try:
        weight_map = Record(read_json(index, MAX_HEADER_BYTES)).record("weight_map")
    except OSError as error:
        raise _bad(index, f"{why_unreadable(error)}.") from error
    except (ValueError, TypeError):
        weight_map = Record()
    names = sorted({str(name) for name in weight_map.values()})
    if not names or not all(isinstance(name, str) for name in weight_map.values()):
        raise _bad(index, "is not an index of safetensors files.", "Fetch it again.")
    problems = []
    for name in names:
        if Path(name).name != name:
            problems.append(_problem(index, f"names a file outside its folder: {name!r}."))
        elif not (folder / name).is_file():
            problems.append(_problem(index, f"shard {name} is missing."))
    if problems:
        raise InputError(problems)
    return [folder / name for name in names]


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file, by name.

    Raises:
        InputError: it is none, or not a whole one.
    """
    try:
        with opened(file) as stream:
            start = stream.read(len(LFS_MAGIC))
            stream.seek(0)
            length = int.from_bytes(stream.read(8), "little")
            size = stream.seek(0, os.SEEK_END)
            if start == LFS_MAGIC:
                raise _bad(file, "is a Git LFS pointer, not weights.", "Run `git lfs pull`.")
            if not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
                message = f"is not a whole safetensors file ({size} bytes)."
                raise _bad(file, message, "Fetch it again.")
            stream.seek(8)
            header = parse_json(stream.read(length))
    except OSError as error:
        raise _bad(file, f"{why_unreadable(error)}.") from error
    except ValueError as error:
        raise _unreadable(file) from error
    entries = header if isinstance(header, dict) else {}
    found, spans = {}, []
    for name, entry in entries.items():
        if name != "__metadata__":
            found[name], span = _tensor(file, entry)
            spans.append(span)
    if not found:
        raise _unreadable(file)
    spans.sort()
    if spans[0][0] != 0 or any(end != begin for (_, end), (begin, _) in pairwise(spans)):
        raise _unreadable(file)
    expected = 8 + length + spans[-1][1]
    if size != expected:
        message = f"has {size} bytes where its header says {expected}."
        raise _bad(file, message, "Fetch it again.")
    return found


def _tensor(file: Path, entry: Any) -> tuple[StoredTensor, tuple[int, int]]:
    """Return a tensor and the bytes that it takes, counted from the end of the header."""
    record = Record(entry) if isinstance(entry, Mapping) else Record()
    dtype = record.text("dtype")
    shape, span = _sizes(record, "shape"), _sizes(record, "data_offsets")
    if dtype not in BITS or shape is None or span is None or len(span) != 2:
        raise _unreadable(file)
    begin, end = span
    if 8 * (end - begin) != prod(shape) * BITS[dtype]:
        raise _unreadable(file)
    return StoredTensor(file, dtype, shape), (begin, end)


def _sizes(record: Record, name: str) -> tuple[int, ...] | None:
    value = record.get(name)
    if not isinstance(value, list):
        return None
    sizes = [item for item in value if type(item) is int and 0 <= item < 1 << 63]
    return tuple(sizes) if len(sizes) == len(value) else None


def _unreadable(file: Path) -> InputError:
    return _bad(file, "has an unreadable safetensors header.", "Fetch it again.")


def _problem(place: Path, message: str, cure: str = "") -> Problem:
    return Problem(str(place), "model.path", message, cure)


def _bad(place: Path, message: str, cure: str = "") -> InputError:
    return InputError(_problem(place, message, cure))
