"""The report tells every attempt of a run, and a run that was killed is not said to run."""

from __future__ import annotations

import json
from pathlib import Path

from launcher.lock import hold
from launcher.metrics.report import build_report
from launcher.metrics.report_facts import outcome
from launcher.metrics.report_read import read_run
from tests.support.followed import write_attempt, write_beat, write_cause
from tests.support.sample_run import write_sample_run


def test_attempts_with_their_end_and_what_to_do(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run", "finished")
    logs = write_attempt(run_dir, 1, outcome="failed", hours=2, gpus=8)
    write_beat(logs, 0, "n1", step=118)
    write_cause(logs, "rank 1 on <b>n2</b> is gone", rank=1, host="n2", category="node")
    logs = write_attempt(run_dir, 2, outcome="stopped", hours=1, gpus=8)
    logs.stopped.write_text(json.dumps({"step": 237, "reason": "time limit"}))
    write_attempt(run_dir, 3, outcome="finished", hours=0.5, gpus=8)
    page = build_report(run_dir).read_text()
    assert "3 attempts, 28.00 GPU-hours" in page
    for words in (
        "42, requeue 2",
        "rank 1 on n2",
        "failed<br>node",
        "rank 1 on &lt;b&gt;n2&lt;/b&gt; is gone",
        "Submit again without that node",
        "time limit",
        "2:00:00",
    ):
        assert words in page
    assert page.count('class="bad"') == page.count('class="good"') == 1


def test_a_killed_run_is_lost_and_a_held_one_runs(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "run", "running")
    write_attempt(run_dir, 1)
    with hold(run_dir.lock, "launcher run"):
        assert outcome(read_run(run_dir)).label == "Running"
    assert outcome(read_run(run_dir)).label == "Lost"
    assert "nothing was written at its end" in build_report(run_dir).read_text()


def test_a_run_by_hand_has_no_attempts(tmp_path: Path) -> None:
    page = build_report(write_sample_run(tmp_path / "run", "running")).read_text()
    assert "<h2>Attempts</h2>" not in page
