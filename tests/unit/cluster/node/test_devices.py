"""GPUs are counted from what the driver shows, without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster.node.devices import visible_gpus


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, 4), ("0,2", 2), ("", 0), ("-1", 0), ("0,1,2,3,4,5", 4), ("GPU-8a3f", 1)],
)
def test_visible_gpus(tmp_path: Path, chosen: str | None, expected: int) -> None:
    for number in range(4):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(environ, tmp_path) == expected
