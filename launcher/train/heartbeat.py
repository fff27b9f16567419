"""A sign of life of every rank, once a second, for whoever watches the launch from outside."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from dataclasses import dataclass, replace

from launcher.files.write import open_descriptor
from launcher.run_dir import RunDir
from launcher.train.stop import StopFlag, StopReason
from launcher.world import World, host_name

INTERVAL_SECONDS = 1.0
SHORTEST_INTERVAL_SECONDS = 0.1
MARGIN_SECONDS = 5.0
RECORD_BYTES = 1024


@dataclass(frozen=True)
class Place:
    """Where a rank is in its run."""

    phase: str = "start"
    """start, compile OPERATOR, load, resume, train, evaluate, save, export; done: it ends well."""
    step: int | None = None
    micro_step: int | None = None
    progressed: float = 0.0
    """Monotonic seconds of this host when the rank last came to a new place."""


class Heartbeat:
    """Writes where this rank is from a thread of its own, also while the rank itself waits.

    The same thread hears what asks the whole run to stop: on rank 0 it looks for the request of
    `launcher stop` and at the time limit.
    """

    def __init__(self, world: World, stop: StopFlag) -> None:
        self.place = Place(progressed=time.monotonic())
        self.deadline = world.deadline
        """When the launch has to be over, in monotonic seconds; None: no limit."""
        self.reserve_seconds = MARGIN_SECONDS
        """How long before the deadline the stop is asked for: what a step and a save take."""
        self._world = world
        self._stop = stop
        self._run_dir: RunDir | None = None
        self._host = host_name()
        self._descriptor: int | None = None
        self._written = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def at(
        self, phase: str | None = None, *, step: int | None = None, micro_step: int | None = None
    ) -> None:
        """Note where the rank is now; what isn't given stays.

        Written at once, unless that has just been done: a kill then finds the place in the file.
        """
        place = self.place
        self.place = replace(
            place,
            phase=phase or place.phase,
            step=place.step if step is None else step,
            micro_step=place.micro_step if micro_step is None else micro_step,
            progressed=time.monotonic(),
        )
        if self.place.progressed - self._written >= SHORTEST_INTERVAL_SECONDS:
            self._write()

    def start(self) -> None:
        """Write the first heartbeat, and from now on one every second."""
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """Write the last heartbeat and end the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write()

    def watch(self, run_dir: RunDir) -> None:
        """From now on hear, on rank 0, the stop requests for this run."""
        self._run_dir = run_dir

    def limit(self, deadline: float) -> None:
        """Let the launch be over by `deadline` (monotonic seconds), or earlier as already set."""
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def hear(self) -> None:
        """Ask for a stop if there is a request for it, or if the time is almost up."""
        if self._run_dir is not None and self._run_dir.is_asked_to_stop:
            self._stop.ask(StopReason.REQUEST)
        last_moment = math.inf if self.deadline is None else self.deadline - self.reserve_seconds
        if time.monotonic() >= last_moment:
            self._stop.ask(StopReason.TIME_LIMIT)

    def _beat(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self._write()
            if self._world.is_main_process:
                self.hear()

    def _write(self) -> None:
        if self._world.logs is None:
            return
        place, self._written = self.place, time.monotonic()
        values = {
            "rank": self._world.rank,
            "local_rank": self._world.local_rank,
            "host": self._host,
            "pid": os.getpid(),
            "phase": place.phase,
            "step": place.step,
            "micro_step": place.micro_step,
            "written": self._written,
            "progressed": place.progressed,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        try:
            self._put(json.dumps(values))
        except OSError:
            # No folder, no space for the first one: the next may pass. It is on silence that
            # whoever watches acts.
            return

    def _put(self, text: str) -> None:
        """Write over the last heartbeat, in its place: that works on a full disk too.

        A whole record goes out in one write, and is padded: a reader sees one record, or, very
        rarely, something that is no JSON.
        """
        assert self._world.logs is not None
        if self._descriptor is None:
            path = self._world.logs.heartbeat(self._world.rank)
            self._descriptor = open_descriptor(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(self._descriptor, text.ljust(RECORD_BYTES - 1).encode() + b"\n", 0)
