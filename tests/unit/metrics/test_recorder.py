"""One call records everywhere; on other ranks it records nowhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from launcher.files.lines import read_lines
from launcher.metrics.recorder import Recorder, open_recorder
from launcher.run_dir import RunDir
from tests.support.records import evaluation_record, recipe, train_record


def open_at(run_dir: RunDir, resume_step: int, *, is_main_process: bool = True) -> Recorder:
    return open_recorder(
        run_dir,
        recipe(),
        resume_step=resume_step,
        total_steps=20,
        wandb_run_id="id",
        has_wandb_key=False,
        is_main_process=is_main_process,
    )


def test_records_and_events_reach_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(tmp_path / "run")
    began = datetime.now(UTC)
    with open_at(run_dir, 0) as recorder:
        recorder.event("start", world_size=2)
        recorder.train(train_record(1))
        recorder.evaluation(evaluation_record(1))
        recorder.event("checkpoint", path="checkpoints/step-000001")
        recorder.event("overfitting", step=7, since_step=1)
    assert [len(record) for record in read_lines(run_dir.metrics).records] == [11, 3]
    events = read_lines(run_dir.events).records
    assert [(event["kind"], event["step"]) for event in events] == [
        ("start", 0),
        ("checkpoint", 1),
        ("overfitting", 7),
    ]
    assert began.timestamp() - 1 <= datetime.fromisoformat(events[0]["time"]).timestamp()
    assert events[0]["time"].endswith("+00:00")
    assert "overfitting since step 1" in capsys.readouterr().out


def test_other_ranks_touch_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path / "run")
    with open_at(run_dir, 0, is_main_process=False) as recorder:
        recorder.train(train_record(1))
        recorder.evaluation(evaluation_record(1))
        recorder.event("start")
        recorder.sync()
    assert not run_dir.root.exists()
    assert capsys.readouterr().out == ""


def test_what_was_torn_is_an_event(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    with open_at(run_dir, 0) as recorder:
        recorder.train(train_record(1))
    with run_dir.metrics.open("a") as file:
        file.write('{"step": 2, "tra')
    with open_at(run_dir, 1) as recorder:
        recorder.train(train_record(2))
    (event,) = read_lines(run_dir.events).records
    assert (event["kind"], event["step"]) == ("warning", 1)
    assert event["message"] == "metrics.jsonl: dropped torn line 2"


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    recorder = open_at(RunDir(tmp_path / "run"), 0)
    recorder.close()
    recorder.close()


def test_a_failure_still_closes_the_files(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")

    def fail() -> None:
        with open_at(run_dir, 0) as recorder:
            recorder.train(train_record(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(read_lines(run_dir.metrics).records) == 1
