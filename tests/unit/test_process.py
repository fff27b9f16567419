"""A process is told from a later one of its number; its state and its end are seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launcher.process import Process, children_of, hear

WAITING = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]
TIED = """
import os, subprocess, sys, time
child = (
    "import os, sys, time; from launcher.process import die_with_parent;"
    "die_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(600)"
)
subprocess.Popen([sys.executable, "-c", child, str(os.getpid() + {offset})])
time.sleep(600)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_states_of_a_process() -> None:
    child = subprocess.Popen(WAITING, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    process = Process.find(child.pid)
    assert process is not None
    assert process in children_of(os.getpid())
    assert process.state in ("S", "R")
    process.send(signal.SIGSTOP)
    wait_for(lambda: process.state == "T")
    process.send(signal.SIGKILL)
    wait_for(lambda: not process.is_alive)
    assert process in children_of(os.getpid())  # a zombie until it is waited for
    child.wait()
    child.stdout.close()
    assert Process.find(child.pid) is None
    process.send(signal.SIGKILL)


def test_another_process_of_the_same_number() -> None:
    me = Process.find(os.getpid())
    assert me is not None
    assert me.is_alive
    earlier = Process(me.pid, me.started - 1)
    assert not earlier.is_alive
    earlier.send(signal.SIGKILL)  # or this test would not go on


def test_variables_it_was_started_with() -> None:
    with subprocess.Popen(WAITING, stdout=subprocess.PIPE, env={"RANK": "3"}) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = Process.find(child.pid)
        assert process is not None
        assert (process.variable("RANK"), process.variable("RAN")) == ("3", None)
        child.kill()


def test_a_child_ends_with_its_parent_even_if_that_is_killed() -> None:
    with start_tied(offset=0) as parent:
        assert parent.stdout is not None
        child = Process.find(int(parent.stdout.readline()))
        assert child is not None
        assert child.is_alive
        parent.kill()
        wait_for(lambda: not child.is_alive)


def test_a_child_whose_parent_has_ended_before_ends_at_once() -> None:
    """The pid that it was told isn't its parent any more: nothing would end it later."""
    with start_tied(offset=1) as parent:
        assert parent.stdout is not None
        wait_for(lambda: children_of(parent.pid) != [])
        (child,) = children_of(parent.pid)
        wait_for(lambda: not child.is_alive)
        parent.kill()
        assert parent.stdout.read() == b""


def start_tied(offset: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", TIED.format(offset=offset)], stdout=subprocess.PIPE, cwd=root
    )


def test_a_signal_is_heard_and_kills_nothing_that_was_started() -> None:
    """Slurm's warning reaches every process of a step: the compiler that a rank runs, too."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    end = hear(signal.SIGUSR1, lambda: heard.append(1))
    try:
        with subprocess.Popen(WAITING, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            for pid in (os.getpid(), child.pid):
                os.kill(pid, signal.SIGUSR1)
            wait_for(lambda: heard == [1])
            time.sleep(0.2)
            assert child.poll() is None
            child.kill()
    finally:
        end()
        signal.signal(signal.SIGUSR1, before)
    assert heard == [1]
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


HEARING = """
import signal, sys, time
from launcher.process import hear
end = hear(signal.SIGUSR1, lambda: print("heard", flush=True))
print("ready", flush=True)
sys.stdin.readline()
end()
print("end", flush=True)
"""


def test_a_process_that_is_suspended_and_goes_on_hears_no_signal_that_nobody_sent() -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HEARING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        for _ in range(3):
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(child.pid, signal.SIGCONT)
        os.kill(child.pid, signal.SIGUSR1)
        assert child.stdout.readline() == b"heard\n"
        assert child.communicate(b"\n")[0] == b"end\n"
