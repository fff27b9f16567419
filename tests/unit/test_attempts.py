"""Attempts are told from what they left: with a last word, without one, and torn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.attempts import ACTIONS, LOST, Attempt, next_action, read_attempts, spent
from launcher.run_dir import RunDir
from tests.support.followed import empty_run, write_attempt, write_beat, write_cause

CATEGORIES = (
    "out of memory", "collective timeout", "node", "data row", "code", "input", "non-finite",
    "killed", "port", "late node",
)  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return empty_run(tmp_path)


def only(run_dir: RunDir, *, is_live: bool = False) -> Attempt:
    (attempt,) = read_attempts(run_dir, is_live=is_live)
    return attempt


def test_a_failed_attempt_names_rank_node_category_and_what_to_do(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1, outcome="failed", hours=1.5, gpus=16)
    write_beat(logs, 0, "n1", step=12)
    message = "rank 3 on n2 ran out of memory at step 12: CUDA.\nLower it.\nLog: x"
    write_cause(logs, message, rank=3, host="n2", category="out of memory")
    found = only(run_dir)
    assert (found.outcome, found.rank, found.host, found.step) == ("failed", 3, "n2", 12)
    assert found.why == "rank 3 on n2 ran out of memory at step 12: CUDA."
    assert found.message == message
    assert found.action == next_action("out of memory")
    assert found.hours() == pytest.approx(1.5)
    assert spent([found]) == (pytest.approx(24.0), "GPU-hours")
    assert (found.job_id, found.restart_count, found.nodes) == ("42", 0, ("n1", "n2"))


def test_what_the_cause_says_itself_goes_first(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1, outcome="failed", hours=1)
    write_cause(logs, "lost", category="node", nodes=["n2"], action="Exclude n2.", host="n1")
    found = only(run_dir)
    assert (found.category, found.host, found.action) == ("node", "n2", "Exclude n2.")


def test_where_the_log_lies_is_left_out_of_the_line(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1, outcome="failed", hours=1)
    write_cause(logs, "rank 1 on n1 was killed by signal 9. Log: /a b. The same", kind="Killed")
    assert only(run_dir).why == "rank 1 on n1 was killed by signal 9."
    assert only(run_dir).category == "killed"


def test_a_clean_stop(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1, outcome="stopped", hours=2)
    logs.stopped.write_text(json.dumps({"step": 7, "reason": "time limit"}))
    found = only(run_dir)
    assert (found.outcome, found.why, found.step, found.category) == (
        "stopped", "time limit", 7, None,
    )  # fmt: skip


def test_without_a_last_word_it_was_lost_unless_somebody_works_on_it(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1)
    write_beat(logs, 0, "n1")
    assert only(run_dir, is_live=True).outcome == "running"
    assert only(run_dir, is_live=True).ended is None
    lost = only(run_dir)
    assert (lost.outcome, lost.why, lost.category) == ("lost", LOST, "lost")
    assert lost.ended == logs.heartbeat(0).stat().st_mtime
    write_attempt(run_dir, 2)
    first, second = read_attempts(run_dir, is_live=True)
    assert (first.outcome, second.outcome) == ("lost", "running")


def test_the_newest_of_a_finished_run_has_finished(run_dir: RunDir) -> None:
    """Also in the report that the run itself writes, before its parent sees it end."""
    write_attempt(run_dir, 1)
    write_attempt(run_dir, 2)
    run_dir.summary.write_text("{}")
    assert [found.outcome for found in read_attempts(run_dir, is_live=True)] == ["lost", "finished"]


def test_a_failure_that_nobody_summed_up_is_the_earliest(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1)
    for rank, moment, kind in ((0, 20.0, "lost peer"), (1, 10.0, "non-finite")):
        failure = {"time": moment, "rank": rank, "host": "n1", "class": kind, "message": kind}
        logs.failure(rank).write_text(json.dumps(failure))
    assert only(run_dir, is_live=True).outcome == "running"  # the cause is still being looked for
    found = only(run_dir)
    assert (found.outcome, found.rank, found.category) == ("failed", 1, "non-finite")


def test_old_and_torn_files_are_no_error(run_dir: RunDir) -> None:
    logs = run_dir.logs(1)
    logs.root.mkdir(parents=True)
    logs.attempt.write_text('{"attempt": 1, "nod')
    logs.launch.write_text("grace\n")
    write_beat(logs, 0, "here", step=None)
    found = only(run_dir)
    assert (found.outcome, found.nodes, found.world_size, found.step) == (
        "lost",
        ("here",),
        1,
        None,
    )
    assert found.started == pytest.approx(found.ended, abs=5)


def test_node_hours_where_there_is_no_gpu(run_dir: RunDir) -> None:
    write_attempt(run_dir, 1, outcome="stopped", hours=2)
    write_attempt(run_dir, 2, outcome="finished", hours=0.5, nodes=("n3",))
    assert spent(read_attempts(run_dir, is_live=False)) == (pytest.approx(4.5), "node-hours")


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_has_one_thing_to_do(category: str) -> None:
    assert next_action(category).endswith(".")
    assert set(CATEGORIES) | {"lost"} == set(ACTIONS)
    assert next_action("something else") == ""
