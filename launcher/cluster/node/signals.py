"""What asks a launch to stop reaches its parent as a signal; it is noted, and passed on once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from launcher.process import hear

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """While entered, signals that ask for a stop set a value and do nothing else.

    A signal that this process was started to ignore (nohup, a job in the background) stays so.
    SIGUSR1, Slurm's warning, is kept from what is started meanwhile: see `hear`.
    """

    def __init__(self) -> None:
        self._asked: list[signal.Signals] = []
        self._before: dict[signal.Signals, Any] = {}
        self._end_hearing: Callable[[], None] | None = None

    @property
    def asked(self) -> signal.Signals | None:
        """The first signal that asked for a stop; later ones change nothing."""
        return self._asked[0] if self._asked else None

    @property
    def for_ranks(self) -> signal.Signals | None:
        """What the ranks are sent for it: they know no closed terminal."""
        return signal.SIGTERM if self.asked is signal.SIGHUP else self.asked

    def __enter__(self) -> StopSignals:
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        if signal.SIGUSR1 in self._before:
            self._end_hearing = hear(
                signal.SIGUSR1, lambda: self._asked.append(signal.Signals.SIGUSR1)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._end_hearing is not None:
            self._end_hearing()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._asked.append(signal.Signals(number))
