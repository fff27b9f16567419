"""One meaning of stop: signals, `launcher stop`, the time limit and Ctrl-C all set one flag."""

from __future__ import annotations

import signal
from collections.abc import Callable
from enum import Enum
from types import FrameType

from launcher.process import hear


class StopReason(Enum):
    """Who asked for the stop."""

    SIGNAL = "signal"
    INTERRUPT = "interrupt"
    REQUEST = "request"
    TIME_LIMIT = "time limit"

    @property
    def text(self) -> str:
        """The reason for people."""
        return _TEXTS[self]


_TEXTS = {
    StopReason.SIGNAL: "SIGTERM or SIGUSR1",
    StopReason.INTERRUPT: "Ctrl-C",
    StopReason.REQUEST: "launcher stop",
    StopReason.TIME_LIMIT: "time limit",
}


class StopFlag:
    """Whether this rank was asked to stop; the ranks agree on it at a step boundary.

    Signal handlers and threads set it: it takes no lock, since a handler may run while its own
    thread holds it.
    """

    def __init__(self) -> None:
        self._reasons: list[StopReason] = []

    def ask(self, reason: StopReason) -> None:
        """Ask for a stop; the first reason stays, and asking again changes nothing."""
        if not self._reasons:
            self._reasons.append(reason)

    @property
    def reason(self) -> StopReason | None:
        """Why a stop was asked for first; None if it was not."""
        return self._reasons[0] if self._reasons else None


def install_signal_handlers(flag: StopFlag) -> Callable[[], None]:
    """Let SIGTERM, SIGUSR1 and SIGINT ask for a stop and do nothing else, however often.

    SIGUSR1, Slurm's warning, is kept from what this process starts: see `hear`, of which the end is
    returned.
    """
    reasons = {
        signal.SIGTERM: StopReason.SIGNAL,
        signal.SIGUSR1: StopReason.SIGNAL,
        signal.SIGINT: StopReason.INTERRUPT,
    }

    def ask(number: int, _frame: FrameType | None) -> None:
        flag.ask(reasons[signal.Signals(number)])

    for number in reasons:
        signal.signal(number, ask)
    return hear(signal.SIGUSR1, lambda: flag.ask(StopReason.SIGNAL))
