"""The files of records: strict JSON, whole over restarts, each step once, whatever tore them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.files.lines import MOST_BYTES, read_lines
from launcher.metrics.jsonl import JsonlWriter, truncate_after
from launcher.metrics.record import Event, encode, number
from launcher.run_dir import RunDir
from tests.support.records import evaluation_record, train_record


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def strict(line: str) -> Any:
    """Parse as other languages do: NaN and Infinity are no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def steps(run_dir: RunDir, key: str = "train/loss") -> list[int]:
    return [record["step"] for record in read_lines(run_dir.metrics).records if key in record]


def train(run_dir: RunDir, resume_step: int, last_step: int) -> None:
    writer = JsonlWriter(run_dir, resume_step=resume_step)
    for step in range(resume_step + 1, last_step + 1):
        writer.train(train_record(step))
    writer.close()


def test_a_training_record_has_the_documented_names(run_dir: RunDir) -> None:
    train(run_dir, 0, 1)
    (line,) = run_dir.metrics.read_text().splitlines()
    assert strict(line) == {
        "step": 1,
        "epoch": 0.1,
        "consumed_samples": 8,
        "consumed_tokens": 1000,
        "train/loss": 2.0,
        "learning_rate": 2e-5,
        "grad_norm": 1.5,
        "tokens_per_second": 12345.6,
        "step_seconds": 0.5,
        "peak_memory_bytes": 3 * 2**30,
        "skipped_steps": 0,
    }


def test_a_skipped_update_has_no_loss_and_no_norm(run_dir: RunDir) -> None:
    writer = JsonlWriter(run_dir, resume_step=0)
    writer.train(train_record(1, loss=None, grad_norm=None, skipped_steps=1))
    writer.close()
    found = strict(run_dir.metrics.read_text())
    assert (found["train/loss"], found["grad_norm"], found["skipped_steps"]) == (None, None, 1)
    assert steps(run_dir) == [1]  # still a training record, which a resume finds


def test_floats_survive_to_the_last_bit(run_dir: RunDir) -> None:
    loss = 0.1 + 0.2  # not the double nearest to 0.3
    writer = JsonlWriter(run_dir, resume_step=0)
    writer.train(train_record(1, loss=loss))
    assert read_lines(run_dir.metrics).records[0]["train/loss"] == loss
    writer.close()


@pytest.mark.parametrize(
    ("value", "written"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")],
)
def test_what_is_not_finite_stays_visible_in_valid_json(value: float, written: str) -> None:
    line = encode({"train/loss": value, "nested": {"list": [value, 1.0]}})
    assert strict(line) == {"train/loss": written, "nested": {"list": [written, 1.0]}}
    read = number(strict(line)["train/loss"])
    assert read is not None
    assert repr(read) == repr(value)


def test_each_record_is_in_the_file_before_the_next(run_dir: RunDir) -> None:
    writer = JsonlWriter(run_dir, resume_step=0)
    writer.train(train_record(1))
    assert steps(run_dir) == [1]
    writer.event(Event("checkpoint", "2026-01-01T00:00:00.000+00:00", 1, {"path": "a"}))
    assert read_lines(run_dir.events).records == [
        {"kind": "checkpoint", "time": "2026-01-01T00:00:00.000+00:00", "step": 1, "path": "a"}
    ]
    writer.close()


def test_two_restarts_leave_one_history_with_each_step_once(run_dir: RunDir) -> None:
    train(run_dir, 0, 10)
    train(run_dir, 8, 15)
    train(run_dir, 15, 20)
    assert steps(run_dir) == list(range(1, 21))


def test_a_run_from_zero_keeps_nothing_of_an_attempt_without_checkpoint(run_dir: RunDir) -> None:
    train(run_dir, 0, 3)
    train(run_dir, 0, 5)
    assert steps(run_dir) == [1, 2, 3, 4, 5]


def test_an_evaluation_repeated_after_a_resume_stands_once(run_dir: RunDir) -> None:
    writer = JsonlWriter(run_dir, resume_step=0)
    writer.evaluation(evaluation_record(0))
    writer.train(train_record(1))
    writer.evaluation(evaluation_record(1))
    writer.close()
    writer = JsonlWriter(run_dir, resume_step=1)
    writer.evaluation(evaluation_record(1))
    writer.train(train_record(2))
    writer.evaluation(evaluation_record(2))
    writer.close()
    assert steps(run_dir, "validation/loss") == [0, 1, 2]
    assert steps(run_dir) == [1, 2]


@pytest.mark.parametrize("cut_bytes", range(1, 60, 7))
def test_a_torn_last_line_is_dropped_and_reported(run_dir: RunDir, cut_bytes: int) -> None:
    train(run_dir, 0, 4)
    whole = run_dir.metrics.read_bytes()
    run_dir.metrics.write_bytes(whole[:-cut_bytes])
    writer = JsonlWriter(run_dir, resume_step=3)
    # Cutting the newline alone leaves a whole record, which is newer than the checkpoint.
    assert writer.notes == (() if cut_bytes == 1 else ("metrics.jsonl: dropped torn line 4",))
    writer.train(train_record(4))
    writer.close()
    assert run_dir.metrics.read_bytes() == whole


def test_a_torn_last_event_does_not_swallow_the_next(run_dir: RunDir) -> None:
    run_dir.root.mkdir()
    run_dir.events.write_text('{"kind": "start", "step": 0}\n{"kind": "chec')
    writer = JsonlWriter(run_dir, resume_step=0)
    assert writer.notes == ("events.jsonl: dropped torn line 2",)
    writer.event(Event("resume", "t", 0))
    writer.close()
    kinds = [record["kind"] for record in read_lines(run_dir.events).records]
    assert kinds == ["start", "resume"]


def test_records_that_no_launch_writes_are_dropped_and_counted(run_dir: RunDir) -> None:
    train(run_dir, 0, 2)
    with run_dir.metrics.open("a") as file:
        file.write('{"step": "soon"}\n{"train/loss": 1.0}\n{"step": -1}\n{"step": 1e999}\n')
    run_dir.events.write_text('{"kind": 7}\n{"step": 1}\n{"kind": "start", "step": 0}\n')
    writer = JsonlWriter(run_dir, resume_step=1)
    writer.close()
    assert writer.notes == (
        "metrics.jsonl: dropped 4 records that no launch writes",
        "events.jsonl: dropped 2 records that no launch writes",
    )
    assert steps(run_dir) == [1]
    assert [record["kind"] for record in read_lines(run_dir.events).records] == ["start"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "huge"])
@pytest.mark.parametrize("name", ["metrics", "events"])
def test_what_cannot_be_read_is_put_aside_whole(run_dir: RunDir, name: str, kind: str) -> None:
    run_dir.root.mkdir()
    path: Path = getattr(run_dir, name)
    if kind == "folder":
        path.mkdir()
        (path / "mine").write_text("of somebody else")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, MOST_BYTES + 1)  # a hole, which takes no room
    before = path.stat()
    writer = JsonlWriter(run_dir, resume_step=0)
    writer.train(train_record(1))
    writer.event(Event("start", "t", 0))
    writer.close()
    (note,) = writer.notes
    assert note.startswith(f"{path.name} ")
    aside = run_dir.root / note.rpartition(" ")[2]
    assert (aside.stat().st_ino, aside.stat().st_size) == (before.st_ino, before.st_size)
    assert steps(run_dir) == [1]
    assert len(read_lines(run_dir.events).records) == 1


@pytest.mark.parametrize("name", ["metrics", "events"])
@pytest.mark.parametrize("is_dangling", [False, True])
def test_nothing_is_written_by_way_of_a_link(
    run_dir: RunDir, tmp_path: Path, name: str, is_dangling: bool
) -> None:
    run_dir.root.mkdir()
    target = tmp_path / "elsewhere.jsonl"
    if not is_dangling:
        target.write_text('{"kind": "start", "step": 0, "train/loss": 1.0}\n')
    before = target.read_bytes() if target.exists() else None
    getattr(run_dir, name).symlink_to(target)
    writer = JsonlWriter(run_dir, resume_step=0)
    writer.train(train_record(1))
    writer.event(Event("start", "t", 0))
    writer.close()
    assert (target.read_bytes() if target.exists() else None) == before
    assert not getattr(run_dir, name).is_symlink()


def test_a_kill_before_the_rename_leaves_the_old_file(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run_dir, 0, 4)
    before = run_dir.metrics.read_bytes()

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            truncate_after(run_dir.metrics, 2)
    assert run_dir.metrics.read_bytes() == before
    truncate_after(run_dir.metrics, 2)  # the leftover doesn't get in the way
    assert steps(run_dir) == [1, 2]
    assert sorted(path.name for path in run_dir.root.iterdir()) == ["events.jsonl", "metrics.jsonl"]


def test_nothing_to_cut_leaves_the_file_untouched(run_dir: RunDir) -> None:
    train(run_dir, 0, 4)
    before = run_dir.metrics.stat()
    assert truncate_after(run_dir.metrics, 4).cut_records == 0
    assert run_dir.metrics.stat().st_ino == before.st_ino


def test_an_absent_file_has_no_records(tmp_path: Path) -> None:
    found = truncate_after(tmp_path / "none.jsonl", 5)
    assert (found.kept, found.cut_records, found.notes) == ([], 0, ())
