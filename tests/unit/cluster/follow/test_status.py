"""The status screen and the table of runs say what is known, and nothing that isn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cluster.follow.read import Queue, find_run, read_state, runs_in
from launcher.cluster.follow.runs import list_runs
from launcher.cluster.follow.status import lines, newest_run, render
from launcher.cluster.follow.text import ago, columns, duration, names
from launcher.errors import InputError
from launcher.lock import hold
from launcher.run_dir import RunDir
from tests.support.followed import empty_run, write_attempt, write_beat, write_cause
from tests.support.sample_run import write_sample_run


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def screen(run_dir: RunDir) -> str:
    return str(render(read_state(run_dir, Queue())))


def test_a_run_under_way(tmp_path: Path) -> None:
    run_dir = write_sample_run(tmp_path / "bot", "running")
    logs = write_attempt(run_dir, 1, nodes=("n1",))
    write_beat(logs, 0, "n1", step=273)
    with hold(run_dir.lock, "launcher run"):
        shown = screen(run_dir)
    for words in (
        "bot  running\n",
        "n1 · 2 ranks",
        "273 of 480 (57%), train",
        "best 0.6825 at step 240",
        " tokens/s · 0.6",
        "next      checkpoint at step 288, in 0:00:",  # an epoch has 96 steps
        "1 attempt",
    ):
        assert words in shown
    assert "run 0:02:" in shown  # 207 steps of 0.64 s
    assert screen(run_dir).startswith("bot  lost\n")


def test_the_step_of_an_unlogged_stretch_is_the_heartbeats(tmp_path: Path) -> None:
    run_dir = empty_run(tmp_path)
    logs = write_attempt(run_dir, 1)
    write_beat(logs, 0, "n1", step=7)
    state = read_state(run_dir, Queue())
    assert (state.step, state.total_steps, state.run_seconds_left) == (7, 20, None)


def test_a_run_whose_length_is_not_known_yet_says_what_it_does(tmp_path: Path) -> None:
    run_dir = empty_run(tmp_path)
    run_dir.resolved.write_text("run: {name: bot}\ntrain: {num_epochs: 2}\n")
    logs = write_attempt(run_dir, 1)
    assert "step" not in screen(run_dir)
    write_beat(logs, 0, "n1", step=None, phase="compile deepspeed_shm_comm")
    with hold(run_dir.lock, "launcher run"):
        assert "step      0, compile deepspeed_shm_comm" in screen(run_dir)


def test_a_failure_with_its_attempts(tmp_path: Path) -> None:
    run_dir = empty_run(tmp_path)
    write_attempt(run_dir, 1, outcome="stopped", hours=2, gpus=4)
    logs = write_attempt(run_dir, 2, outcome="failed", hours=1, gpus=4)
    write_cause(logs, "rank 3 on n2 is gone. Log: x", category="node", rank=3, host="n2")
    shown = screen(run_dir).splitlines()
    assert shown[0] == "bot  failed"
    assert "  attempts  2 attempts, 12.00 GPU-hours" in shown
    assert "  last      attempt 2 failed, node: rank 3 on n2 is gone." in shown
    assert any(line.startswith("  do        Submit again without that node") for line in shown)
    assert shown[-1].endswith(
        "  42 (requeue 1)  n1, n2  1.00   -     failed   node: rank 3 on n2 is gone."
    )


def test_nothing_is_said_of_what_is_unknown(tmp_path: Path) -> None:
    assert lines(read_state(empty_run(tmp_path), Queue())) == ["  step  0 of 20 (0%)"]


@pytest.mark.parametrize("torn", ["", "{", "[]", "\x00\xff"])
def test_torn_files_are_no_error(tmp_path: Path, torn: str) -> None:
    run_dir = write_sample_run(tmp_path / "bot", "running")
    logs = write_attempt(run_dir, 1)
    for path in (run_dir.metrics, run_dir.events, run_dir.summary, logs.attempt, run_dir.resolved):
        path.write_text(torn)
        assert screen(run_dir).startswith("bot")


def test_losses_that_are_not_finite(tmp_path: Path) -> None:
    run_dir = empty_run(tmp_path)
    run_dir.metrics.write_text('{"step": 3, "train/loss": "NaN", "step_seconds": 1.0}\n')
    assert "loss  nan" in screen(run_dir)


def test_runs_of_a_folder(tmp_path: Path) -> None:
    write_sample_run(tmp_path / "done", "finished")
    killed = empty_run(tmp_path, "killed")
    write_attempt(killed, 1, hours=2)
    (tmp_path / "no-run").mkdir()
    head, *rows = list_runs(tmp_path).splitlines()
    assert head.split()[:4] == ["run", "state", "step", "best"]
    by_name = {row.split()[0]: row for row in rows}
    assert set(by_name) == {"done", "killed"}
    assert "finished  320/480  0.6825 loss" in by_name["done"]
    assert "lost" in by_name["killed"]
    assert by_name["killed"].endswith("2.00")


def test_the_newest_run_is_the_one_written_to_last(tmp_path: Path) -> None:
    first, second = empty_run(tmp_path, "a"), empty_run(tmp_path, "b")
    assert [found.root.name for found in runs_in(tmp_path)] == ["a", "b"]
    first.metrics.write_text(json.dumps({"step": 1}) + "\n")
    assert newest_run(tmp_path).root == first.root
    assert second.root != first.root


def test_what_is_no_run(tmp_path: Path) -> None:
    for look in (find_run, newest_run, list_runs):
        with pytest.raises(InputError):
            look(tmp_path)


def test_text() -> None:
    assert [duration(value) for value in (None, 3.4, 3661)] == ["-", "0:00:03", "1:01:01"]
    assert [ago(100, now) for now in (130, 400, 100 + 7200, 100 + 3 * 86400)] == [
        "30 s ago", "5 min ago", "2 h ago", "3 d ago",
    ]  # fmt: skip
    assert columns([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]
    assert columns([]) == []
    assert names(["n1", "n2"]) == "n1, n2"
    assert names([f"n{i}" for i in range(64)]) == "n0, n1, n2, n3, ... (64 nodes)"
