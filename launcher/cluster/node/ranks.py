"""The ranks of this machine as their parent sees them: processes, and what their heartbeats say."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from launcher.cluster.node.share import Share
from launcher.files.read import Record, read_record
from launcher.process import Process, children_of
from launcher.run_dir import LogDir
from launcher.world import LOGS_VARIABLE

SEARCH_SECONDS = 0.3


@dataclass
class Rank:
    """One rank: its process, where it said it was, and for how long it has said nothing new.

    Ages are counted on the watcher's own clock, from when it saw a heartbeat change: no clock of
    another process or host, and no change of a clock, plays a part.
    """

    rank: int
    process: Process
    seen: float
    """When its process was first seen."""
    beat: Record = field(default_factory=Record)
    """Its last heartbeat; empty before the first."""
    beat_seen: float = 0.0
    ended: bool = False

    def read(self, logs: LogDir, now: float) -> None:
        """Take in its heartbeat file."""
        beat = read_record(logs.heartbeat(self.rank))
        if beat.integer("pid") != self.process.pid or beat.number("progressed") is None:
            return
        if beat.number("written") not in (None, self.beat.number("written")):
            self.beat, self.beat_seen = beat, now

    def silent_seconds(self, now: float) -> float:
        """Return for how long no heartbeat was written."""
        return now - (self.beat_seen if self.beat else self.seen)

    def idle_seconds(self, now: float) -> float:
        """Return for how long the rank has come to no new place."""
        written, progressed = self.beat.number("written"), self.beat.number("progressed")
        if written is None or progressed is None:
            return now - self.seen
        return now - self.beat_seen + written - progressed

    @property
    def is_done(self) -> bool:
        """Whether it said that it ends well."""
        return self.beat.get("phase") == "done"

    @property
    def position(self) -> tuple[int, int]:
        """How far it has come, for comparison with other ranks."""
        return self.beat.integer("step") or 0, self.beat.integer("micro_step") or 0


class Ranks:
    """All ranks that one agent started on this machine."""

    def __init__(self, agent_pid: int, logs: LogDir, share: Share) -> None:
        self.found: dict[int, Rank] = {}
        self.share = share
        self._agent_pid = agent_pid
        self._logs = logs
        self._next_search = 0.0

    def refresh(self, now: float) -> None:
        """Look for processes not seen yet; read every heartbeat; note who has ended."""
        if self.missing:
            self._find_by_heartbeat(now)
            if now >= self._next_search:
                self._next_search = now + SEARCH_SECONDS
                self._find_by_parent(now)
        for rank in self.found.values():
            # In this order: what a process wrote before its end is then known at its end.
            ended = not rank.process.is_alive
            rank.read(self._logs, now)
            rank.ended = ended

    @property
    def missing(self) -> list[int]:
        """Ranks of which no process was ever seen."""
        return [rank for rank in self.share.ranks if rank not in self.found]

    @property
    def alive(self) -> list[Rank]:
        """Those that have not ended, by rank."""
        return [self.found[rank] for rank in sorted(self.found) if not self.found[rank].ended]

    def kill(self) -> None:
        """End all of them at once; a stopped process too."""
        for rank in self.alive:
            rank.process.send(signal.SIGKILL)

    def _find_by_heartbeat(self, now: float) -> None:
        for path in self.share.heartbeats(self._logs):
            beat = read_record(path)
            rank, pid = beat.integer("rank"), beat.integer("pid")
            if rank is None or pid is None or rank in self.found or rank not in self.share.ranks:
                continue
            process = Process.find(pid)
            if process is None or self._is_ours(process):
                # One that is gone by now is known to have been there.
                self.found[rank] = Rank(rank, process or Process(pid, started=0), now)

    def _find_by_parent(self, now: float) -> None:
        """Find those that have not come to their first heartbeat."""
        known = {rank.process for rank in self.found.values()}
        for process in children_of(self._agent_pid):
            number = process.variable("RANK")
            if process in known or not self._is_ours(process):
                continue
            if number is not None:
                self.found[int(number)] = Rank(int(number), process, now)

    def _is_ours(self, process: Process) -> bool:
        """Tell whether it was started for these logs: what a file says may be anybody's process."""
        return process.variable(LOGS_VARIABLE) == str(self._logs.root)
