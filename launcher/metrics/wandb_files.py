"""Which steps wandb's offline files hold: after a kill, only they know how far they were flushed.

A `.wandb` file is LevelDB's log format in blocks of 32 KiB behind a header of 7 bytes
(https://github.com/google/leveldb/blob/main/doc/log_format.md); an entry is a protobuf `Record`.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.files.read import read_bytes

_BLOCK = 32 * 1024
_HEADER = 7  # of the file, and of each fragment: checksum (4), length (2), kind (1)
_MOST_BYTES = 1 << 32  # of a file that is read whole
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def last_logged_step(folder: Path, run_id: str) -> int:
    """Return the highest `step` in the offline files of a run below `folder`; -1 for none."""
    files = sorted(folder.glob(f"offline-run-*/run-{run_id}.wandb"))
    return max((step for path in files for step in _steps(path)), default=-1)


def _steps(path: Path) -> Iterator[int]:
    record_type = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    damage = importlib.import_module("google.protobuf.message").DecodeError
    for entry in _entries(read_bytes(path, _MOST_BYTES)):
        try:
            record: Any = record_type.FromString(entry)
        except damage:  # a block that a power cut left half written
            return
        for item in record.history.item:
            if item.key == "step" or list(item.nested_key) == ["step"]:
                yield int(json.loads(item.value_json))


def _entries(data: bytes) -> Iterator[bytes]:
    """Yield whole entries; what a kill tore at the end is left out."""
    position, parts = _HEADER, b""
    while position + _HEADER <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _HEADER:  # too short for another fragment: padding
            position += room
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        end = position + _HEADER + length
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or end > len(data):
            return
        parts += data[position + _HEADER : end]
        position = end
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
