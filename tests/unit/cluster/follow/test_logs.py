"""Logs come with host and rank, root cause first; followed, each line comes once and whole."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from launcher.cluster.follow import logs as logs_module
from launcher.cluster.follow.logs import Follower, show_logs
from launcher.errors import InputError
from launcher.lock import hold
from launcher.run_dir import RunDir
from tests.support.followed import empty_run, write_attempt, write_beat, write_cause


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))  # no Slurm
    return empty_run(tmp_path)


def shown(
    run_dir: RunDir, rank: int | None = None, attempt: int | None = None, follow: bool = False
) -> list[str]:
    said: list[str] = []
    show_logs(run_dir, said.append, rank=rank, attempt=attempt, follow=follow)
    return said


def test_root_cause_then_rank_by_rank(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1, outcome="failed", hours=1)
    write_cause(logs, "rank 2 failed first", category="code")
    for rank in (10, 2, 0):
        logs.rank(rank).write_text(f"first of {rank}\nsecond of {rank}")
    write_beat(logs, 10, "elsewhere")
    said = shown(run_dir)
    assert said[0] == "--- attempt 1 of bot, job 42: failed"
    assert said[1] == "rank 2 failed first"
    assert said[2].startswith("Read the traceback")
    assert said[3:] == [
        f"{host} {rank} | {which} of {rank}"
        for host, rank in (("n1", 0), ("n2", 2), ("elsewhere", 10))
        for which in ("first", "second")
    ]
    assert shown(run_dir, rank=2)[3:] == ["n2 2 | first of 2", "n2 2 | second of 2"]


def test_where_no_rank_spoke_the_agents_do(run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1)
    logs.launch.write_text("no port\n")
    (logs.root / "launch-node-1.log").write_text("no head\n")
    assert shown(run_dir)[-2:] == ["n2 agent | no head", "n1 agent | no port"]


def test_attempts_and_ranks_that_are_not_there(run_dir: RunDir) -> None:
    with pytest.raises(InputError, match="no attempt yet"):
        shown(run_dir)
    write_attempt(run_dir, 1, outcome="stopped", hours=1).rank(0).write_text("x\n")
    with pytest.raises(InputError, match="attempts 1 to 1"):
        shown(run_dir, attempt=2)
    with pytest.raises(InputError, match="Ranks here: 0"):
        shown(run_dir, rank=1)


def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    said: list[str] = []
    follower, path = Follower(said.append), tmp_path / "log"
    follower.show(path, "p")
    for text, expected in (
        ("one\ntw", ["p | one"]),
        ("o\r", []),
        ("\n", ["p | two"]),
        ("10%\r50%\r100%\n\n", ["p | 100%", "p | "]),
        ("torn \xff", []),
    ):
        with path.open("a", encoding="latin-1") as file:
            file.write(text)
        said.clear()
        follower.show(path, "p")
        assert said == expected
    follower.show(path, "p", at_end=True)
    assert said == ["p | torn \ufffd"]


def test_following_goes_over_attempts_to_the_end(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "POLL_SECONDS", 0.02)
    said: list[str] = []
    lock = hold(run_dir.lock, "launcher run")
    first = write_attempt(run_dir, 1)
    first.rank(0).write_text("before\n")
    following = threading.Thread(
        target=show_logs,
        args=(run_dir, said.append),
        kwargs={"rank": None, "attempt": None, "follow": True},
    )
    following.start()
    wait_for(said, "n1 0 | before")
    with first.rank(0).open("a") as file:
        file.write("while it runs\n")
    wait_for(said, "n1 0 | while it runs")
    write_cause(first, "rank 1 is gone")
    second = write_attempt(run_dir, 2)
    wait_for(said, "--- attempt 2 of bot, job 42: running")
    second.rank(1).write_text("again\nlast words")
    wait_for(said, "n1 1 | again")
    run_dir.summary.write_text(json.dumps({}))
    following.join(10)
    lock.release()
    assert not following.is_alive()
    assert said.index("--- attempt 1 of bot, job 42: failed") < said.index("rank 1 is gone")
    assert said[-2:] == ["n1 1 | last words", "--- bot: finished"]
    assert len([line for line in said if "|" in line]) == 4


def wait_for(said: list[str], line: str) -> None:
    deadline = time.monotonic() + 10
    while line not in said:
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
