"""What several nodes report comes to one thing: the earliest cause that follows from no other."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.launch import Attempt, close_attempt
from launcher.cluster.node.watchdog import Seen, judge
from launcher.cluster.outcome import Cause
from launcher.cluster.report import NodeReport, merge
from launcher.run_dir import LogDir

KILLED = Cause("rank 3 on n1 was killed", category="killed", rank=3, host="n1", seen=100.0)
PEER = Cause("rank 0 on n0: connection closed", category="node", seen=99.0, follows=True)
LOST = Cause("node 2 was lost", category="node", nodes=("n2",), seen=98.0)


@pytest.fixture
def logs(tmp_path: Path) -> LogDir:
    return LogDir(tmp_path)


def report(node_rank: int, **changed: Any) -> NodeReport:
    values: dict[str, Any] = {
        "node_rank": node_rank,
        "host": f"n{node_rank}",
        "finished": False,
        "step": 4 + node_rank,
        "stopped": None,
        "cause": None,
        "hang": None,
        "asked": False,
    }
    return NodeReport(**values | changed)


def seen(rank: int, **changed: Any) -> Seen:
    values: dict[str, Any] = {
        "rank": rank,
        "host": f"n{rank // 2}",
        "pid": 7,
        "phase": "train",
        "step": 5,
        "micro_step": 0,
        "seconds": 31.0,
        "silent": False,
        "state": "S",
        "waiting": True,
        "stacks": None,
    }
    return Seen(**values | changed)


def test_what_only_follows_is_not_the_cause_though_it_was_seen_first(logs: LogDir) -> None:
    result = merge([report(0, cause=PEER), report(1, cause=KILLED)], [], logs)
    assert (result.cause, result.step) == (KILLED, 5)


def test_the_earliest_of_causes(logs: LogDir) -> None:
    later = Cause("rank 0 failed", seen=120.0)
    assert merge([report(0, cause=later), report(1, cause=KILLED)], [], logs).cause == KILLED
    assert merge([report(0, cause=later), report(1, cause=KILLED)], [LOST], logs).cause == LOST
    unknown = Cause("nobody said why", follows=True)
    assert merge([report(0, cause=unknown), report(1, cause=PEER)], [], logs).cause == PEER


def test_all_have_to_finish(logs: LogDir) -> None:
    both = [report(0, finished=True), report(1, finished=True)]
    assert merge(both, [], logs).finished
    assert merge(both, [LOST], logs).cause == LOST
    assert merge([both[0], report(1, cause=KILLED)], [], logs).cause == KILLED


def test_a_stop_goes_before_what_came_of_it(logs: LogDir) -> None:
    stop = {"step": 12, "reason": "SIGTERM or SIGUSR1"}
    result = merge([report(0, stopped=stop), report(1, cause=PEER)], [], logs)
    assert (result.stopped, result.cause) == (stop, None)


def test_who_is_waited_for_shows_when_all_nodes_are_compared(logs: LogDir) -> None:
    """By itself each node would name its own: on node 0 all wait, on node 1 nobody does."""
    alone = [judge([seen(0), seen(1)], [], 30.0), judge([seen(2, waiting=False)], [], 30.0)]
    nodes = [report(rank, cause=PEER, hang=hang) for rank, hang in enumerate(alone)]
    result = merge(nodes, [], logs)
    assert result.cause is not None
    assert result.cause.text.startswith("rank 2 on n1 made no progress for 31 s at step 5")
    assert "rank 0" not in result.cause.text
    assert [late["rank"] for late in json.loads(logs.watchdog.read_text())["late"]] == [2]


def test_a_report_survives_the_way_and_its_moments_move_to_the_other_clock() -> None:
    now = time.time()
    cause = Cause("x", nodes=("n1",), seen=now - 5)
    sent = report(1, cause=cause, hang=judge([seen(2, state="T")], [3], 30.0))
    got = NodeReport.from_message(json.loads(json.dumps(sent.to_message())))
    assert got.hang == sent.hang
    assert got.cause is not None
    assert got.cause.nodes == ("n1",)
    assert got.cause.seen == pytest.approx(now - 5, abs=1)


def test_an_attempt_is_closed_by_who_is_left(logs: LogDir) -> None:
    attempt = Attempt(
        logs, 1, "launcher run", None, None, None, ("n0", "n1"), 2, 4, 0, "2026-01-01T00:00:00"
    )
    attempt.write()
    assert json.loads(logs.attempt.read_text())["outcome"] == "running"
    close_attempt(logs, 1, "failed")
    record = json.loads(logs.attempt.read_text())
    assert (record["outcome"], record["exit_code"], record["nodes"]) == ("failed", 1, ["n0", "n1"])
    assert record["ended"] >= "2026"
