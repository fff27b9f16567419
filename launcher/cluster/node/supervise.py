"""The parent's loop over one attempt: passes stop signals on, sees ranks end or hang, ends it all.

The agent alone would wait minutes: it kills nobody before its grace is over, and sees no hang.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from launcher.cluster.node.agent_log import ended_pids
from launcher.cluster.node.oom import MemoryGroup, MemoryWatch
from launcher.cluster.node.ranks import Rank, Ranks
from launcher.cluster.node.share import Share
from launcher.cluster.node.signals import StopSignals
from launcher.cluster.node.watchdog import Hang, diagnose, is_late
from launcher.files.read import read_record
from launcher.files.remove import remove_file
from launcher.run_dir import LogDir

POLL_SECONDS = 0.1
LONGEST_TICK_SECONDS = 2.0
LEAVE_SECONDS = 2.5
"""What the other ranks get to leave by themselves once one has failed."""
AGENT_SECONDS = 1.0
"""What the agent gets to end once all ranks have gone."""


class Leave(Enum):
    """Why the ranks of this node have to end: what happened on another."""

    FAILED = "failed"
    HANGS = "hangs"


class Others(Protocol):
    """The other nodes of an attempt, as far as they matter to the ranks of this one."""

    def told_to_leave(self) -> Leave | None:
        """Return why the ranks of this node shall end; None as long as they shall not."""

    def tell(self, leave: Leave) -> None:
        """Let the other nodes know that the ranks of this one are ending, and why."""


class Alone:
    """No other nodes."""

    def told_to_leave(self) -> Leave | None:
        """Nobody is there to say so."""
        return None

    def tell(self, leave: Leave) -> None:
        """Nobody is there to hear it."""


@dataclass
class Ending:
    """How one attempt ended on one node, as the parent of its ranks saw it."""

    code: int = 0
    """Exit code of the agent; negative: the signal that ended it."""
    ranks: list[Rank] = field(default_factory=list)
    dead: list[Rank] = field(default_factory=list)
    """Ranks that ended without a word, in the order seen, up to when the rest was ended."""
    out_of_memory: dict[int, MemoryGroup] = field(default_factory=dict)
    """Of `dead`, those that the kernel ended for want of memory."""
    hang: Hang | None = None
    before_start: str | None = None
    """What asked for a stop before any rank could hear of it, so that all was ended at once."""
    dead_since: float | None = None
    """When the first of `dead` was seen, in seconds since the epoch of this host's clock."""

    @property
    def step(self) -> int | None:
        """The furthest step that any rank was at."""
        steps = (rank.beat.integer("step") for rank in self.ranks)
        return max((step for step in steps if step), default=None)


class Watch:
    """A clock that runs only while this process does: after a suspension nobody is late."""

    def __init__(self) -> None:
        self.now = 0.0
        self._last = time.monotonic()

    def tick(self) -> None:
        """Move on by the time since the last tick, or by little if this process stood still."""
        moment = time.monotonic()
        self.now += min(moment - self._last, LONGEST_TICK_SECONDS)
        self._last = moment


class Supervisor:
    """One attempt under watch."""

    def __init__(
        self,
        agent: subprocess.Popen[bytes],
        logs: LogDir,
        share: Share,
        timeout_seconds: float,
        signals: StopSignals,
        others: Others,
    ) -> None:
        self.agent = agent
        self.logs = logs
        self.timeout_seconds = timeout_seconds
        self.signals = signals
        self.share = share
        self.others = others
        self.ranks = Ranks(agent.pid, logs, share)
        self.watch = Watch()
        self.memory = MemoryWatch()
        self.ending = Ending()
        self._told: set[int] = set()
        self._leaving_since: float | None = None

    def run(self) -> Ending:
        """Watch until the agent and all ranks have ended; return how."""
        while self.agent.poll() is None:
            self._look()
            self._pass_on_stop()
            self._end_what_must()
            time.sleep(POLL_SECONDS)
        self._look()
        self.ranks.kill()
        self.ending.code = self.agent.wait()
        self.ending.ranks = list(self.ranks.found.values())
        if self.ending.code and not (
            self.ending.ranks and all(rank.is_done for rank in self.ending.ranks)
        ):
            self.others.tell(Leave.FAILED)
        for path in map(self.logs.stacks, self.share.ranks):
            if path.exists() and not path.stat().st_size:
                remove_file(path, within=self.logs.root)
        return self.ending

    def _look(self) -> None:
        """Take in what the ranks show; note those that ended without a word."""
        self.watch.tick()
        self.ranks.refresh(self.watch.now)
        for rank in self.ranks.alive:
            self.memory.look(rank.process.pid)
        if self._leaving_since is not None and self._overdue(LEAVE_SECONDS):
            return  # from here on it is us who ended them
        for rank in self.ranks.found.values():
            said = rank.is_done or self.logs.failure(rank.rank).exists()
            if rank.ended and not said and rank not in self.ending.dead:
                self._note_dead(rank)

    def _note_dead(self, rank: Rank) -> None:
        self.ending.dead.append(rank)
        self.ending.dead_since = self.ending.dead_since or time.time()
        group = self.memory.killed(rank.process.pid)
        if group is not None:
            self.ending.out_of_memory[rank.rank] = group

    def _pass_on_stop(self) -> None:
        """Send the first stop signal once to each rank that can take it."""
        number = self.signals.for_ranks
        if number is None:
            return
        if not self.share.heartbeats(self.logs):
            self.ending.before_start = number.name
            self.others.tell(Leave.FAILED)
            self.agent.kill()  # with it go the ranks, if there are any yet
            return
        for rank in self.ranks.alive:
            if rank.beat and rank.rank not in self._told:
                self._told.add(rank.rank)
                rank.process.send(number)

    def _end_what_must(self) -> None:
        if self._leaving_since is None:
            told = self.others.told_to_leave()
            if self._has_failed():
                self._leaving_since = time.monotonic()
                self._explain_timeout()
                self.others.tell(Leave.HANGS if self.ending.hang else Leave.FAILED)
            elif told is Leave.HANGS or self._hangs():
                self._end_hang()
                self.others.tell(Leave.HANGS)
            elif told is Leave.FAILED:
                self._leaving_since = time.monotonic()
        elif self._overdue(LEAVE_SECONDS):
            self.ranks.kill()
            if self._overdue(LEAVE_SECONDS + AGENT_SECONDS):
                self.agent.kill()

    def _overdue(self, seconds: float) -> bool:
        return self._leaving_since is not None and time.monotonic() > self._leaving_since + seconds

    def _has_failed(self) -> bool:
        if self.ending.dead or self.share.failures(self.logs):
            return True
        # A rank may end before it is ever seen.
        return bool(self.ranks.missing) and bool(ended_pids(self.share.launch_log(self.logs)))

    def _explain_timeout(self) -> None:
        """A collective may give up just before the watchdog does: what matters is who was late."""
        classes = {read_record(path).get("class") for path in self.share.failures(self.logs)}
        if classes == {"timeout"} and not self.ending.dead:
            self._end_hang()

    def _hangs(self) -> bool:
        now, limit = self.watch.now, self.timeout_seconds
        if self.ranks.missing and now > limit:
            return True
        return any(is_late(rank, now, limit) for rank in self.ranks.found.values())

    def _end_hang(self) -> None:
        self.ending.hang = diagnose(self.ranks, self.logs, self.watch.now, self.timeout_seconds)
        if self.ending.hang is not None and self.share.num_nodes == 1:
            self.ending.hang.write(self.logs)
        self._leaving_since = time.monotonic() - LEAVE_SECONDS
        self.ranks.kill()


def supervise(
    agent: subprocess.Popen[bytes],
    logs: LogDir,
    share: Share,
    timeout_seconds: float,
    signals: StopSignals,
    others: Others,
) -> Ending:
    """Watch one node's part of an attempt to its end, and see to it that it has one."""
    return Supervisor(agent, logs, share, timeout_seconds, signals, others).run()
