"""When nothing moves: has every rank show its stacks, and names the one that is waited for."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from launcher.cluster.node.ranks import Rank, Ranks
from launcher.cluster.node.stacks import waits_for_others
from launcher.files.read import read_bytes
from launcher.files.write import replace_text
from launcher.process import STOPPED
from launcher.run_dir import LogDir
from launcher.world import host_name

SILENT_SECONDS = 5.0
"""Heartbeats come once a second: without one for this long, the whole process stands still."""
DUMP_SECONDS = 1.0


@dataclass(frozen=True)
class Seen:
    """One living rank as the watchdog saw it when nothing moved."""

    rank: int
    host: str
    pid: int
    phase: str | None
    step: int | None
    micro_step: int | None
    seconds: float
    """For how long it has come to no new place."""
    silent: bool
    """Whether it shows no sign of life."""
    state: str | None
    """Of its process, as in /proc/PID/stat; T: stopped by a signal."""
    waiting: bool
    """Whether its stacks show it inside a collective."""
    stacks: str | None
    """Path of its stacks; None where it could not show them."""

    @property
    def position(self) -> tuple[int, int]:
        """How far it has come, for comparison with other ranks."""
        return self.step or 0, self.micro_step or 0


@dataclass(frozen=True)
class LateRank(Seen):
    """A rank that the others wait for, or one of them."""

    why: str
    """What it was chosen by, for people."""


@dataclass(frozen=True)
class Hang:
    """What the watchdog saw: the late ranks (none: ranks that were never started)."""

    late: tuple[LateRank, ...]
    timeout_seconds: float
    missing: tuple[int, ...] = ()
    """Ranks of which no process was ever seen."""
    seen: tuple[Seen, ...] = ()
    """All living ranks, from which the late ones were chosen."""

    def write(self, logs: LogDir) -> None:
        """Keep it as watchdog.json."""
        record = {
            "late": [asdict(rank) for rank in self.late],
            "timeout_seconds": self.timeout_seconds,
            "missing": self.missing,
            "stacks": {str(rank.rank): rank.stacks for rank in self.seen if rank.stacks},
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        with contextlib.suppress(OSError):  # a full disk must not keep the ranks alive
            replace_text(logs.watchdog, json.dumps(record, indent=1))


def is_late(rank: Rank, now: float, timeout_seconds: float) -> bool:
    """Return whether a rank has come to no new place for too long, or shown no life."""
    if rank.ended or rank.is_done:
        return False
    return max(rank.silent_seconds(now), rank.idle_seconds(now)) > timeout_seconds


def diagnose(ranks: Ranks, logs: LogDir, now: float, timeout_seconds: float) -> Hang | None:
    """Dump the stacks of all living ranks of this node, and decide which is late.

    None where nobody is: what was waited for has failed, or isn't on this machine.
    """
    alive = [
        rank for rank in ranks.alive if not rank.is_done and not logs.failure(rank.rank).exists()
    ]
    states = {rank.rank: rank.process.state for rank in alive}
    dumps = dump_stacks(alive, logs)
    seen = [
        Seen(
            rank=rank.rank,
            host=host_name(),
            pid=rank.process.pid,
            phase=rank.beat.text("phase"),
            step=rank.beat.integer("step"),
            micro_step=rank.beat.integer("micro_step"),
            seconds=round(max(rank.silent_seconds(now), rank.idle_seconds(now)), 1),
            silent=rank.silent_seconds(now) > SILENT_SECONDS,
            state=states[rank.rank],
            waiting=waits_for_others(dumps[rank.rank]),
            stacks=str(logs.stacks(rank.rank)) if dumps[rank.rank] else None,
        )
        for rank in alive
    ]
    return judge(seen, ranks.missing, timeout_seconds)


def judge(seen: Sequence[Seen], missing: Sequence[int], timeout_seconds: float) -> Hang | None:
    """Return which of the ranks that were seen are late; None if there is nobody to name."""
    chosen, why = choose_late(seen)
    late = tuple(LateRank(**asdict(rank), why=why) for rank in chosen)
    if not late and not missing:
        return None
    return Hang(late, timeout_seconds, tuple(missing), tuple(seen))


def choose_late(alive: Sequence[Seen]) -> tuple[list[Seen], str]:
    """Return the ranks that the others wait for and what shows it; the surest sign decides."""
    stopped = [rank for rank in alive if rank.state in STOPPED]
    if stopped:
        return stopped, "its process is stopped (SIGSTOP)"
    silent = [rank for rank in alive if rank.silent]
    if silent:
        return silent, "its process shows no sign of life"
    busy = [rank for rank in alive if not rank.waiting]
    if busy and len(busy) < len(alive):
        return busy, "it is not where the others wait for it"
    lowest = min((rank.position for rank in alive), default=(0, 0))
    last = [rank for rank in alive if rank.position == lowest]
    return last, "it has come least far" if len(last) < len(alive) else "no rank has come further"


def dump_stacks(alive: Sequence[Rank], logs: LogDir) -> dict[int, str]:
    """Let each rank append its stacks to its file; return what came within a second."""
    before = {rank.rank: _size(logs, rank.rank) for rank in alive}
    # A rank that never wrote a heartbeat may not have its handler yet: the signal would kill it.
    for rank in alive:
        if rank.beat:
            rank.process.send(signal.SIGUSR2)
    dumps = dict.fromkeys(before, "")
    deadline = time.monotonic() + DUMP_SECONDS
    settled = False
    while not settled and time.monotonic() < deadline:
        time.sleep(0.1)
        latest = {number: _dump(logs, number, size) for number, size in before.items()}
        settled = all(latest.values()) and latest == dumps
        dumps = latest
    return dumps


def _size(logs: LogDir, rank: int) -> int:
    path = logs.stacks(rank)
    return path.stat().st_size if path.exists() else 0


def _dump(logs: LogDir, rank: int, skipped_bytes: int) -> str:
    path = logs.stacks(rank)
    try:
        return read_bytes(path)[skipped_bytes:].decode(errors="replace")
    except OSError:
        return ""
