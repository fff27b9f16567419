"""The end of a launch is told in a few lines: one summary, one clean stop, or one root cause."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from launcher.cluster.node.oom import MemoryGroup
from launcher.cluster.node.ranks import Rank
from launcher.cluster.node.supervise import Ending
from launcher.cluster.node.watchdog import Hang, LateRank
from launcher.cluster.outcome import clean_stop, find_cause, print_stop, print_summary
from launcher.errors import InputError, NonFiniteError, Problem, Stopped, TrainingError
from launcher.files.read import Record
from launcher.process import Process
from launcher.run_dir import LogDir, RunDir
from launcher.train.failure import describe_failure, write_failure, write_stopped
from launcher.train.heartbeat import Place
from launcher.world import World

# As torch's elastic agent prints it (torch.distributed.elastic.multiprocessing): one line when it
# sees the first end, and a table of all when it ends itself.
AGENT_LOG = """
E1 api.py:1] failed (exitcode: -9) local_rank: 1 (pid: 4711) of binary: /usr/bin/python3
============================================================
launcher.train FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-01-01_00:00:00
  host      : node
  rank      : 0 (local_rank: 0)
  exitcode  : -6 (pid: 4710)
  error_file: <N/A>
  traceback : Signal 6 (SIGABRT) received by PID 4710
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : node
  rank      : 3 (local_rank: 1)
  exitcode  : -9 (pid: 4711)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 4711
============================================================
"""
PLACE = {"phase": "train", "step": 41, "micro_step": 3, "host": "node"}
CONNECTION_CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")


@pytest.fixture
def logs(tmp_path: Path) -> LogDir:
    found = RunDir(tmp_path).logs(1)
    found.root.mkdir(parents=True)
    found.launch.write_text("noise\n")
    return found


def fail(logs: LogDir, rank: int, error: Exception, time: float) -> None:
    place = Place("train", 41, 3)
    write_failure({**describe_failure(error, World(rank, rank, 4), place), "time": time}, logs)


def dead(rank: int, pid: int) -> Rank:
    return Rank(rank, Process(pid, 1), 0.0, Record({**PLACE, "pid": pid}))


def test_the_first_failure_is_the_cause(logs: LogDir) -> None:
    fail(logs, 0, ConnectionError("peer closed the connection"), 5.0)
    fail(logs, 1, ValueError("later"), 20.0)
    fail(logs, 2, KeyError("messages"), 10.0)
    cause = find_cause(Ending(code=1), logs)
    assert (cause.exit_code, cause.can_restart) == (1, True)
    for part in ("rank 2", socket.gethostname(), "KeyError", "step 41, micro-step 3, phase train"):
        assert part in cause.text
    assert "rank-2.log" in cause.text
    assert "peer closed" not in cause.text
    assert len(cause.text.splitlines()) <= 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError(Problem("recipe.yaml:3", "model.path", "no such folder.", "Name one.")), 2),
        (TrainingError("step 7: no gradient"), 1),
        (NonFiniteError("step 7: the loss is nan"), 1),
    ],
)
def test_expected_errors_keep_their_words_and_are_met_again(
    logs: LogDir, error: Exception, code: int
) -> None:
    fail(logs, 0, error, 1.0)
    cause = find_cause(Ending(code=1), logs)
    assert (cause.exit_code, cause.can_restart) == (code, False)
    assert cause.text.startswith(str(error))


def test_a_killed_rank_is_named_with_place_and_signal(logs: LogDir) -> None:
    """The survivor aborts for the same reason: the agent saw who ended first."""
    logs.launch.write_text(AGENT_LOG)
    cause = find_cause(Ending(code=1, dead=[dead(0, 4710), dead(3, 4711)]), logs)
    assert cause.text.startswith(
        "rank 3 on node was killed by signal 9 (SIGKILL) at step 41, micro-step 3, phase train."
    )
    assert cause.can_restart
    assert "rank 0" not in cause.text


def test_the_cause_is_kept_for_the_report(logs: LogDir) -> None:
    logs.launch.write_text(AGENT_LOG)
    cause = find_cause(Ending(code=1, dead=[dead(3, 4711)]), logs)
    cause.write(logs)
    kept = json.loads(logs.cause.read_text())
    assert (kept["kind"], kept["rank"], kept["host"]) == ("Killed", 3, "node")
    assert kept["message"] == cause.text
    assert kept["time"] > 0


def test_a_lost_peer_is_not_the_cause(logs: LogDir) -> None:
    """A survivor's connection error comes first in time, and a killed rank leaves no words."""
    logs.launch.write_text(AGENT_LOG)
    fail(logs, 0, CONNECTION_CLOSED, 1.0)
    assert "rank 3 on node was killed" in find_cause(Ending(1, dead=[dead(3, 4711)]), logs).text


def test_a_lost_peer_is_told_where_nothing_else_is_known(logs: LogDir) -> None:
    fail(logs, 1, CONNECTION_CLOSED, 2.0)
    fail(logs, 0, CONNECTION_CLOSED, 1.0)
    assert find_cause(Ending(code=1), logs).text.startswith("rank 0")


def test_an_error_goes_before_the_kill_that_followed(logs: LogDir) -> None:
    logs.launch.write_text(AGENT_LOG)
    fail(logs, 0, KeyError("messages"), 1.0)
    assert "rank 0" in find_cause(Ending(code=1, dead=[dead(3, 4711)]), logs).text


def test_a_rank_that_ended_before_it_could_speak(logs: LogDir) -> None:
    """Its traceback, if any, is in the agent's log: its own was not open yet."""
    logs.launch.write_text("failed (exitcode: 1) local_rank: 0 (pid: 77) of binary: python\n")
    cause = find_cause(Ending(code=1, dead=[Rank(0, Process(77, 1), 0.0)]), logs)
    assert f"rank 0 on {socket.gethostname()} ended with exit code 1" in cause.text
    assert "launch.log" in cause.text


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "knob"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "offload_optimizer"),
        (MemoryError("Unable to allocate 3 TiB"), "fewer ranks"),
    ],
)
def test_out_of_memory_comes_with_knobs(logs: LogDir, error: Exception, knob: str) -> None:
    fail(logs, 1, error, 1.0)
    cause = find_cause(Ending(code=1), logs)
    for part in ("rank 1", "ran out of memory", "step 41", str(error)):
        assert part in cause.text
    for part in ("train.micro_batch_size", "model.gradient_checkpointing", "ZeRO stage", knob):
        assert part in cause.text


def test_out_of_memory_by_the_kernel(logs: LogDir, tmp_path: Path) -> None:
    logs.launch.write_text(AGENT_LOG)
    (tmp_path / "memory.max").write_text("3221225472\n")
    killed = {3: MemoryGroup(tmp_path, 2)}
    cause = find_cause(Ending(1, dead=[dead(3, 4711)], out_of_memory=killed), logs)
    for part in ("rank 3 on node ran out of memory at step 41", "SIGKILL", "3,072 MiB", "fewer"):
        assert part in cause.text


def test_a_hang_goes_before_what_it_made_others_say(logs: LogDir) -> None:
    late = LateRank(
        rank=1,
        host="node",
        pid=7,
        phase="train",
        step=41,
        micro_step=3,
        seconds=31.0,
        silent=False,
        state="T",
        waiting=False,
        stacks=None,
        why="its process is stopped",
    )
    fail(logs, 0, RuntimeError("gloo: Timed out waiting 30000ms"), 1.0)
    cause = find_cause(Ending(code=1, hang=Hang((late,), 30.0), dead=[dead(0, 1)]), logs)
    for part in ("rank 1 on node", "31 s", "step 41", "run.timeout_seconds is 30", "stopped"):
        assert part in cause.text
    assert "rank 0" not in cause.text


def test_ranks_that_never_started(logs: LogDir) -> None:
    cause = find_cause(Ending(code=-9, hang=Hang((), 30.0, missing=(0, 1))), logs)
    assert "rank 0, 1 never started" in cause.text


def test_nothing_known_says_where_to_look(logs: LogDir) -> None:
    assert "launch.log" in find_cause(Ending(code=1), logs).text
    assert "killed by signal 9 (SIGKILL)" in find_cause(Ending(code=-9), logs).text


def test_a_clean_stop(logs: LogDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clean_stop(Ending(code=1), logs) is None
    write_stopped(Stopped(12, "launcher stop"), logs)
    stopped = clean_stop(Ending(code=1), logs)
    assert stopped == {"step": 12, "reason": "launcher stop"}
    run_dir = RunDir(tmp_path / "bot")
    run_dir.checkpoint(12).mkdir(parents=True)
    run_dir.latest.symlink_to(run_dir.checkpoint(12))
    assert print_stop(run_dir, stopped) == 75
    said = capsys.readouterr().err
    for part in ("bot stopped at step 12 (launcher stop)", "step-000012", "resumes it"):
        assert part in said


def test_a_stop_before_the_first_step(
    logs: LogDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = clean_stop(Ending(code=-9, before_start="SIGTERM"), logs)
    assert stopped is not None
    assert print_stop(RunDir(tmp_path), stopped) == 75
    assert "before the first step (SIGTERM); nothing to save" in capsys.readouterr().err


def test_all_ranks_said_they_were_done_and_the_disk_was_full(logs: LogDir) -> None:
    """stopped.json could not be written; the heartbeats, in their old place, could."""
    ranks = [Rank(n, Process(n + 1, 1), 0.0, Record(phase="done", step=8)) for n in range(2)]
    stopped = clean_stop(Ending(code=1, ranks=ranks), logs)
    assert stopped is not None
    assert stopped["step"] == 8
    ranks[1].beat = Record(phase="save", step=8)
    assert clean_stop(Ending(code=1, ranks=ranks), logs) is None


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path / "bot")
    run_dir.root.mkdir()
    summary = {
        "outcome": "early_stopped",
        "step": 40,
        "best": {"step": 25, "metric": "validation/loss", "value": 0.51},
        "overfitting_since": 25,
    }
    run_dir.summary.write_text(json.dumps(summary))
    print_summary(run_dir)
    said = capsys.readouterr().out
    for part in ("stopped early at step 40", "0.5100 at step 25", "overfitting since step 25"):
        assert part in said
