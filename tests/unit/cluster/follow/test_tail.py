"""The newest records come from the end of the file, whatever its size and however it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cluster.follow import tail
from launcher.cluster.follow.tail import lines_backwards, newest_events, newest_records
from launcher.run_dir import RunDir
from tests.support.followed import empty_run


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return empty_run(tmp_path)


@pytest.mark.parametrize("block_bytes", [1, 3, 7, 64, 1 << 16])
def test_lines_come_whole_and_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(tail, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "lines"
    lines = [f"line {number} {'ä' * number}" for number in range(12)]
    path.write_text("\n".join(lines) + "\n")
    assert list(lines_backwards(path)) == lines[::-1]
    path.write_text("\n".join(lines) + "\nhalf a li")
    assert list(lines_backwards(path)) == lines[::-1]
    path.write_text("no newline yet")
    assert list(lines_backwards(path)) == []
    path.write_text("")
    assert list(lines_backwards(path)) == []
    assert list(lines_backwards(tmp_path / "nothing")) == []


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f"{number:09d}\n" for number in range(100)))
    assert list(lines_backwards(path, 35)) == ["000000099", "000000098", "000000097"]


def write(path: Path, *records: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_newest_records(run_dir: RunDir) -> None:
    assert newest_records(run_dir).train == {}
    steps = [
        {"step": n, "train/loss": 9.0 - n / 10, "step_seconds": float(n), "tokens_per_second": 10.0}
        for n in range(1, 31)
    ]
    write(
        run_dir.metrics,
        {"step": 0, "validation/loss": 9.0},
        {"step": 4, "validation/loss": 8.0},
        *steps,
    )
    found = newest_records(run_dir)
    assert found.train["step"] == 30
    assert found.evaluation == {"step": 4, "validation/loss": 8.0}
    assert found.step_seconds == 20.5  # of the last twenty
    assert found.tokens_per_second == 10.0


def test_a_large_file_is_not_read_whole(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    backwards = tail.lines_backwards

    def counting(path: Path, furthest: int | None = None) -> object:
        nonlocal read
        for line in backwards(path, furthest):
            read += len(line)
            yield line

    monkeypatch.setattr(tail, "lines_backwards", counting)
    record = {"step": 1, "train/loss": 2.0, "step_seconds": 1.0, "filling": "x" * 300}
    with run_dir.metrics.open("w") as file:
        file.write('{"step": 1, "validation/loss": 1.5}\n')
        for _ in range(60_000):
            file.write(json.dumps(record) + "\n")
    size = run_dir.metrics.stat().st_size
    assert size > 2 * tail.FURTHEST_BYTES
    found = newest_records(run_dir)
    assert found.evaluation == {}
    assert found.train["step"] == 1
    assert read <= tail.FURTHEST_BYTES


def test_newest_events(run_dir: RunDir) -> None:
    write(
        run_dir.events,
        {"kind": "start", "step": 0, "total_steps": 10},
        {"kind": "evaluation_best", "step": 2, "validation/loss": 3.0},
        {"kind": "start", "step": 2, "total_steps": 20},
        {"kind": "warning", "step": 3, "message": 'says "start"'},
    )
    found = newest_events(run_dir)
    assert found.start["total_steps"] == 20
    assert found.best["step"] == 2
