"""The parent sees ranks end, hang and stop; here they are real, but train nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.node.agent import start_tied
from launcher.cluster.node.share import Share
from launcher.cluster.node.signals import StopSignals
from launcher.cluster.node.supervise import Alone, Ending, Supervisor
from launcher.cluster.outcome import clean_stop, find_cause
from launcher.files.read import read_object
from launcher.process import Process
from launcher.run_dir import LogDir, RunDir
from launcher.world import LOGS_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 4.0

# Starts two ranks, and as torch's agent does, waits 30 s for the others when one has failed.
AGENT = """
import os, subprocess, sys, time
ranks = [
    subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | {"RANK": str(rank)},
                     start_new_session=True)
    for rank in range(2)
]
def ended(): return [rank for rank in ranks if rank.poll() is not None]
while len(ended()) < 2 and not any(rank.returncode for rank in ended()):
    time.sleep(0.02)
codes = [(rank.poll(), rank.pid) for rank in ranks]
deadline = time.monotonic() + 30
while len(ended()) < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
for code, pid in codes:
    if code:
        print(f"failed (exitcode: {code}) local_rank: 0 (pid: {pid})", file=sys.stderr)
sys.exit(any(rank.returncode for rank in ranks))
"""
RANK = """
import os, sys, time
from launcher.errors import Stopped
from launcher.train.failure import describe_failure, write_failure, write_stopped
from launcher.train.watch import start_watch
from launcher.world import World
world = World.from_environment()
watch = start_watch(world)
def end(code):
    watch.heartbeat.at("done")
    watch.heartbeat.stop()
    os._exit(code)
def wait_for_stop():
    while watch.stop.reason is None:
        watch.heartbeat.at("train", step=5)
        time.sleep(0.05)
    if world.is_main_process:
        write_stopped(Stopped(5, watch.stop.reason.text), world.logs)
    end(75)
{body}
"""


@pytest.fixture
def logs(tmp_path: Path) -> LogDir:
    found = RunDir(tmp_path).logs(1)
    found.root.mkdir(parents=True)
    return found


class Watched:
    """A supervised attempt, watched from a thread so that the test can meddle with it."""

    def __init__(self, logs: LogDir, body: str, signals: StopSignals) -> None:
        self.logs = logs
        environment = dict(os.environ) | {LOGS_VARIABLE: str(logs.root), "PYTHONPATH": str(ROOT)}
        environment["WORLD_SIZE"] = "2"
        command = [sys.executable, "-c", AGENT, RANK.format(body=body)]
        with logs.launch.open("w") as log:
            self.agent = start_tied(command, environment, log)
        self.supervisor = Supervisor(self.agent, logs, Share(2), TIMEOUT_SECONDS, signals, Alone())
        self.endings: list[Ending] = []
        self.thread = threading.Thread(target=lambda: self.endings.append(self.supervisor.run()))
        self.thread.start()

    def ranks(self) -> list[Process]:
        """Wait until both ranks have said where they are; return their processes."""
        self.wait_for(lambda: [beat.get("step") for beat in self.beats()] == [5, 5])
        pids = [beat["pid"] for beat in self.beats()]
        return [process for pid in pids if (process := Process.find(pid)) is not None]

    def beats(self) -> list[dict[str, Any]]:
        return [read_object(path) or {} for path in self.logs.heartbeats]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> Ending:
        self.thread.join(30)
        (ending,) = self.endings
        return ending


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    with StopSignals() as found:
        yield found


FOREVER = """
while True:
    watch.heartbeat.at("train", step=5, micro_step=1)
    time.sleep(0.05)
"""


def test_a_kill_ends_all_at_once_and_is_named(logs: LogDir, signals: StopSignals) -> None:
    """The other rank doesn't notice: a rank in a collective on GPUs wouldn't."""
    watched = Watched(logs, FOREVER, signals)
    ranks = watched.ranks()
    killed_at = time.monotonic()
    ranks[1].send(signal.SIGKILL)
    ending = watched.end()
    assert time.monotonic() - killed_at < 5
    assert not any(rank.is_alive for rank in ranks)
    assert [rank.rank for rank in ending.dead] == [1]
    cause = find_cause(ending, logs)
    assert "rank 1" in cause.text
    assert "signal 9 (SIGKILL) at step 5, micro-step 1, phase train" in cause.text


def test_a_failure_is_not_waited_for(logs: LogDir, signals: StopSignals) -> None:
    body = """
if world.rank == 1:
    write_failure(describe_failure(KeyError("x"), world, watch.heartbeat.place), world.logs)
    os._exit(1)
"""
    started = time.monotonic()
    ending = Watched(logs, body + FOREVER, signals).end()
    assert time.monotonic() - started < 15
    assert "rank 1" in find_cause(ending, logs).text
    assert "KeyError" in find_cause(ending, logs).text


def test_a_crash_in_native_code_shows_where(logs: LogDir, signals: StopSignals) -> None:
    body = """
def reads_address_zero():
    import ctypes
    watch.heartbeat.at("train", step=5)
    time.sleep(2)  # a heartbeat comes once a second
    ctypes.string_at(0)
if world.rank == 1:
    reads_address_zero()
"""
    ending = Watched(logs, body + FOREVER, signals).end()
    cause = find_cause(ending, logs)
    assert "rank 1" in cause.text
    assert "killed by signal 11 (SIGSEGV) at step 5" in cause.text
    assert str(logs.stacks(1)) in cause.text
    assert "reads_address_zero" in logs.stacks(1).read_text()


def test_a_stopped_rank_is_named_and_all_show_their_stacks(
    logs: LogDir, signals: StopSignals
) -> None:
    """Rank 0 comes to no new place either, since it waits for rank 1."""
    body = """
watch.heartbeat.at("train", step=5)
def waits_here():
    time.sleep(600)
waits_here()
"""
    watched = Watched(logs, body, signals)
    ranks = watched.ranks()
    stopped_at = time.monotonic()
    ranks[1].send(signal.SIGSTOP)
    ending = watched.end()
    assert time.monotonic() - stopped_at < TIMEOUT_SECONDS + 5
    assert ending.hang is not None
    (late,) = ending.hang.late
    assert (late.rank, late.state, late.step) == (1, "T", 5)
    assert not any(rank.is_alive for rank in ranks)
    written = json.loads(logs.watchdog.read_text())
    assert [found["rank"] for found in written["late"]] == [1]
    assert list(written["stacks"]) == ["0"]
    assert "waits_here" in logs.stacks(0).read_text()
    assert not logs.stacks(1).exists()


def test_a_collective_that_gave_up_is_not_the_cause(logs: LogDir, signals: StopSignals) -> None:
    """It may do so just before the watchdog would; the rank that it waited for is still there."""
    body = """
watch.heartbeat.at("train", step=5 if world.rank else 6)
if world.rank == 0:
    time.sleep(1.5)
    error = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms")
    write_failure(describe_failure(error, world, watch.heartbeat.place), world.logs)
    os._exit(1)
time.sleep(600)
"""
    ending = Watched(logs, body, signals).end()
    assert ending.hang is not None
    assert [(late.rank, late.step) for late in ending.hang.late] == [(1, 5)]
    assert find_cause(ending, logs).text.startswith("rank 1 on")


def test_slow_is_not_late(logs: LogDir, signals: StopSignals) -> None:
    """Steps of rank 1 take five times as long, and all of it longer than the timeout."""
    body = f"""
for step in range(5):
    watch.heartbeat.at("train", step=step)
    time.sleep({TIMEOUT_SECONDS / 4} * (1 if world.rank else 0.2))
end(0)
"""
    ending = Watched(logs, body, signals).end()
    assert (ending.code, ending.hang, ending.dead) == (0, None, [])


def test_ranks_that_end_well_one_after_the_other(logs: LogDir, signals: StopSignals) -> None:
    ending = Watched(logs, "time.sleep(0 if world.rank else 1.5); end(0)", signals).end()
    assert (ending.code, ending.dead) == (0, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_is_passed_on_once(logs: LogDir, signals: StopSignals, number: int) -> None:
    watched = Watched(logs, "wait_for_stop()", signals)
    watched.ranks()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)
    ending = watched.end()
    stopped = clean_stop(ending, logs)
    assert stopped is not None
    asked_by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM or SIGUSR1"
    assert stopped == {"step": 5, "reason": asked_by}


def test_a_stop_before_any_rank_can_hear_it(logs: LogDir, signals: StopSignals) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    watched = Watched(logs, "wait_for_stop()", signals)
    assert clean_stop(watched.end(), logs) == {"step": 0, "reason": "SIGTERM"}


def test_ranks_that_never_come_are_missed(logs: LogDir, signals: StopSignals) -> None:
    with logs.launch.open("w") as log:
        agent: subprocess.Popen[bytes] = start_tied(
            [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ), log
        )
    ending = Supervisor(agent, logs, Share(2), 1.0, signals, Alone()).run()
    assert ending.hang is not None
    assert (ending.hang.late, ending.hang.missing) == ((), (0, 1))
