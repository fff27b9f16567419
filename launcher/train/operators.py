"""DeepSpeed's compiled operators: a first run on a machine builds them, which takes a minute.

DeepSpeed compiles an operator where it first needs it (the one that CPU ranks talk by, offload's
Adam, NVMe's asynchronous reads), silently, into a folder that later runs find it in.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import psutil
from deepspeed.ops.op_builder.builder import OpBuilder
from torch.utils import cpp_extension

from launcher.compile_locks import LOCK, builder_of, is_held_here, remove_if_dead, sign
from launcher.files.read import real
from launcher.lock import FolderLock
from launcher.train.heartbeat import Heartbeat
from launcher.world import World, host_name

POLL_SECONDS = 0.05
TICK_SECONDS = 1.0
SLOW_SECONDS = 5.0
"""Loading an operator that is built takes less, except on a very busy machine."""

Say = Callable[[str], None]


def watch_builds(heartbeat: Heartbeat, world: World, terminal: TextIO) -> None:
    """Say it whenever DeepSpeed compiles an operator in this process, and show it as progress.

    The first rank of each node says so on the terminal, the others in their logs.
    """
    jit_load = OpBuilder.jit_load
    host = f"{host_name()}: " if world.num_nodes > 1 else ""

    def say(text: str) -> None:
        if world.local_rank == 0:
            terminal.write(f"{host}{text}\n")
            terminal.flush()
        else:
            print(text, flush=True)  # noqa: T201 - the rank's log

    def load(builder: OpBuilder, verbose: bool = True) -> Any:
        folder = Path(cpp_extension._get_build_directory(builder.name, False))
        with Build(builder.name, folder, heartbeat, say) as build:
            build.wait_for_others()
            return jit_load(builder, verbose)

    OpBuilder.jit_load = load


class Build:
    """The loading of one operator: compiled here, or by another rank, or found as it is."""

    def __init__(self, name: str, folder: Path, heartbeat: Heartbeat, say: Say) -> None:
        self._name = name
        self._folder = folder
        self._lock = folder / LOCK
        self._heartbeat = heartbeat
        self._say = say
        self._phase = heartbeat.place.phase
        self._began = time.monotonic()
        self._is_said = False
        self._mark: FolderLock | None = None
        self._work: object = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="operator", daemon=True)

    def __enter__(self) -> Build:
        if not (self._folder / f"{self._name}.so").exists():
            self._announce("first run on this machine; about a minute")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._mark is not None:
            self._mark.release()
        if self._is_said and error[0] is None:
            seconds = time.monotonic() - self._began
            self._say(f"{self._name} is ready after {seconds:.0f} s.")
        self._heartbeat.at(self._phase)

    def wait_for_others(self) -> None:
        """Return once nobody else compiles there; torch alone would wait for the dead as well."""
        next_look = time.monotonic()
        while self._lock.exists():
            if time.monotonic() >= next_look:
                if remove_if_dead(self._lock):
                    self._say(f"removed {self._lock}: the process that compiled there is gone.")
                next_look = time.monotonic() + TICK_SECONDS
            time.sleep(POLL_SECONDS)

    def _announce(self, why: str) -> None:
        self._is_said = True
        self._say(f"compiling DeepSpeed's operator {self._name} ({why}); kept in {self._folder}.")
        self._heartbeat.at(f"compile {self._name}")

    def _follow(self) -> None:
        """Put this process on record once it has torch's lock; show progress while there is any."""
        next_tick = self._began + TICK_SECONDS
        warned = False
        while not self._ended.wait(POLL_SECONDS):
            if self._mark is None and is_held_here(self._lock):
                self._mark = sign(self._lock, f"launcher, compiling {self._name}")
            if time.monotonic() < next_tick:
                continue
            next_tick = time.monotonic() + TICK_SECONDS
            is_slow = time.monotonic() - self._began > SLOW_SECONDS
            if self._is_worked_on():
                if is_slow and not self._is_said:
                    self._announce("anew: something that it is built from has changed")
                self._heartbeat.at()
            elif is_slow and not warned and self._mark is None and self._lock.exists():
                warned = True
                self._say(
                    f"waiting for a process that compiles {self._name}. If there is none on any"
                    f" host, remove {self._lock}."
                )

    def _is_worked_on(self) -> bool:
        """Tell whether the compilers here have done something, or another rank is at it."""
        if self._mark is None and builder_of(self._lock) is not None:
            return True
        folder = str(real(self._folder))
        work: list[tuple[int, float]] = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile
                if child.cwd() == folder:  # compilers work there; other children prove nothing
                    times = child.cpu_times()
                    work.append((child.pid, times.user + times.system))
        before, self._work = self._work, work
        return bool(work) and work != before
