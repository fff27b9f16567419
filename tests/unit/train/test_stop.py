"""Whatever asks for a stop sets one flag; asking twice changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from launcher.train.stop import StopFlag, StopReason, install_signal_handlers

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@pytest.fixture
def flag() -> Iterator[StopFlag]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    found = StopFlag()
    end_hearing = install_signal_handlers(found)
    yield found
    end_hearing()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, StopReason.SIGNAL),
        (signal.SIGUSR1, StopReason.SIGNAL),
        (signal.SIGINT, StopReason.INTERRUPT),
    ],
)
def test_a_signal_asks(flag: StopFlag, number: int, reason: StopReason) -> None:
    assert flag.reason is None
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 10
    while flag.reason is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert flag.reason is reason


def test_the_first_reason_stays(flag: StopFlag) -> None:
    flag.ask(StopReason.TIME_LIMIT)
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    assert flag.reason is StopReason.TIME_LIMIT


def test_every_reason_has_words() -> None:
    assert len({reason.text for reason in StopReason}) == len(StopReason)


def test_handlers_are_there_before_anything_slow() -> None:
    """What the rank's process loads first must take no seconds: a signal then would be a kill."""
    loaded = "import sys, launcher.train.watch; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "launcher.train.stop" in modules
    assert not {"torch", "pydantic", "ruamel.yaml", "numpy"} & set(modules)
