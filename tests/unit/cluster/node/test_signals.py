"""Signals that ask for a stop are noted, once; what was ignored before stays ignored."""

from __future__ import annotations

import os
import signal
import time

from launcher.cluster.node.signals import StopSignals


def test_the_first_signal_counts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while signals.asked is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert signals.asked is signals.for_ranks is signal.SIGUSR1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_closed_terminal_is_a_stop() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.for_ranks is signal.SIGTERM


def test_under_nohup_it_is_none() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.asked is None
    finally:
        signal.signal(signal.SIGHUP, before)
