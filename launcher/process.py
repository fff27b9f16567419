"""Processes of this machine, told apart by more than their number; reads Linux's /proc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from launcher.files.read import read_bytes, read_text

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STOPPED = ("T", "t")
"""States of a process that a signal or a debugger holds."""


@dataclass(frozen=True)
class Process:
    """One process: a later one that gets the same number is another."""

    pid: int
    started: int
    """Clock ticks between boot and its start; no change of the clock moves it."""

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """Return the process that has this number now; None if there is none."""
        fields = _stat(pid)
        return None if fields is None else cls(pid, int(fields[19]))

    @property
    def state(self) -> str | None:
        """The letter of its state (R, S, D, T, ...); None once it has ended, reaped or not."""
        fields = _stat(self.pid)
        if fields is None or int(fields[19]) != self.started or fields[0] in ("Z", "X"):
            return None
        return fields[0]

    @property
    def is_alive(self) -> bool:
        """False once it has ended."""
        return self.state is not None

    def send(self, number: int) -> None:
        """Send a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)  # from here on the number can't be another's
            try:
                if self.is_alive:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def variable(self, name: str) -> str | None:
        """Return a variable of the environment that it was started with; None without it."""
        try:
            block = read_bytes(Path(f"/proc/{self.pid}/environ"))
        except OSError:
            return None
        prefix = f"{name}=".encode()
        entries = (entry for entry in block.split(b"\0") if entry.startswith(prefix))
        found = next(entries, None)
        return None if found is None else found[len(prefix) :].decode(errors="replace")


def children_of(pid: int) -> list[Process]:
    """Return the direct children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and int(fields[1]) == pid:
            found.append(Process(int(entry.name), int(fields[19])))
    return found


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, however it ends; Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(1)


def hear(number: signal.Signals, action: Callable[[], None]) -> Callable[[], None]:
    """Call `action` in a thread when this process gets a signal; return what ends that.

    The signal is blocked in this thread, and so in every thread and process that is started from
    it: none of them is killed by it, as a compiler or a service would be, which start with the
    default action for a signal that is handled here. Slurm sends a job's warning to every process
    of a step. A handler for the signal, for threads that were there before, is the caller's.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    ended = threading.Event()

    def listen() -> None:
        # Not sigtimedwait: when a process is suspended past its timeout and goes on, CPython
        # returns a signal that nobody sent.
        while True:
            info = signal.sigwaitinfo({number})
            if ended.is_set() and info.si_pid == os.getpid():
                return
            action()

    thread = threading.Thread(target=listen, name=number.name, daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        signal.pthread_kill(cast(int, thread.ident), number)
        thread.join()
        while number in signal.sigpending():
            signal.sigwait({number})
            action()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return end


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third (state) on; None without the process."""
    try:
        text = read_text(Path(f"/proc/{pid}/stat"), errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
