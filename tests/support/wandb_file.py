"""Reads the `.wandb` files of offline runs back, without wandb's own reader.

The container is LevelDB's log format in blocks of 32 KiB behind a header of 7 bytes
(https://github.com/google/leveldb/blob/main/doc/log_format.md); each entry is a protobuf `Record`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
HEADER = 7


def entries(path: Path) -> Iterator[Record]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # a block's tail too short for a header is padding
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + HEADER])
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def run_ids(path: Path) -> set[str]:
    return {entry.run.run_id for entry in entries(path) if entry.HasField("run")}


def history(path: Path) -> list[dict[str, Any]]:
    """Rows as wandb keeps them, with its own `_step` beside our keys."""
    rows = []
    for entry in entries(path):
        if entry.HasField("history"):
            items = entry.history.item
            rows.append(
                {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            )
    return rows
