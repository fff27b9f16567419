"""`launcher logs`: what the ranks of an attempt printed, each line with its host and rank."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.attempts import Attempt
from launcher.cluster.follow.facts import RunState
from launcher.cluster.follow.read import Queue, read_state
from launcher.errors import InputError, Problem
from launcher.escape import for_terminal
from launcher.files.read import modified, opened, read_record
from launcher.run_dir import LogDir, RunDir, rank_of

POLL_SECONDS = 0.5
LONGEST_BYTES = 1 << 20
"""Of a line."""
MOST_BYTES = 16 << 20
"""Of a file at once, the newest."""
HOLE = re.compile(rb"\x00{9,}")
"""What a crash leaves of a file whose size was written, and its content wasn't."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
Say = Callable[[str], None]


class Follower:
    """Prints the lines of files that others go on writing, each line once and whole."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._read_bytes: dict[Path, int] = {}

    def skip(self, path: Path) -> None:
        """Take what a file holds by now as printed."""
        with contextlib.suppress(OSError):
            self._read_bytes[path] = path.stat().st_size

    def show(self, path: Path, prefix: str, *, at_end: bool = False) -> None:
        """Print the lines that have come since the last time; one without a newline at the end."""
        for line in self._new_lines(path, at_end=at_end):
            self._say(for_terminal(f"{prefix} | {line}"))

    def _new_lines(self, path: Path, *, at_end: bool) -> Iterator[str]:
        try:
            with opened(path) as file:
                size = os.fstat(file.fileno()).st_size
                begin = self._read_bytes.get(path, 0)
                if size - begin > MOST_BYTES:
                    yield f"({size - begin - MOST_BYTES:,} bytes are left out)"
                    begin = size - MOST_BYTES
                file.seek(begin)
                while line := file.readline(LONGEST_BYTES):
                    # A line that is longer is printed in pieces.
                    is_whole = line.endswith(b"\n") or len(line) == LONGEST_BYTES
                    if not (is_whole or at_end):
                        return
                    self._read_bytes[path] = file.tell()
                    # Of a progress bar what stood there last.
                    text = HOLE.sub(rb"(a hole)", line).decode(errors="replace")
                    yield COLOURS.sub("", text.rstrip("\r\n").rpartition("\r")[2])
        except OSError:
            return


def show_logs(
    run_dir: RunDir, say: Say, *, rank: int | None, attempt: int | None, follow: bool
) -> None:
    """Print an attempt's lines (absent: the newest's); with `follow` until the run has ended.

    Raises:
        InputError: there is no such attempt, or no such rank in it.
    """
    queue = Queue()
    state = read_state(run_dir, queue)
    first = _chosen(state, attempt, follow=follow)
    if rank is not None and first is not None and not follow:
        _require_rank(run_dir.logs(first.number), rank)
    printer = Printer(say, rank)
    if follow:
        printer.skip_job_log(state)
    if first is not None:
        printer.attempt(run_dir, first)
    while follow and state.is_open:
        time.sleep(POLL_SECONDS)
        state = read_state(run_dir, queue)
        for found in state.attempts:
            if first is None or found.number >= first.number:
                printer.attempt(run_dir, found)
        printer.job_log(state)
    if follow:
        note = f" ({state.verdict.note})" if state.verdict.note else ""
        say(f"--- {state.name}: {state.state}{note}")
    elif state.submitted is not None:
        say(f"--- log of the job: {job_log(state) or 'none yet'}")


class Printer:
    """Prints attempts, what is new of them each time: why they failed, and the ranks' lines."""

    def __init__(self, say: Say, rank: int | None) -> None:
        self._say = say
        self._rank = rank
        self._follower = Follower(say)
        self._begun: set[int] = set()
        self._ended: set[int] = set()

    def attempt(self, run_dir: RunDir, attempt: Attempt) -> None:
        """Print what is new: its root cause first, where it has one by now."""
        if attempt.number in self._ended:
            return
        ended = attempt.outcome != "running"
        if attempt.number not in self._begun or ended:
            self._head(run_dir, attempt)
        self._begun.add(attempt.number)
        if ended:
            self._ended.add(attempt.number)
        self._lines(run_dir.logs(attempt.number), attempt, at_end=ended)

    def skip_job_log(self, state: RunState) -> None:
        """Leave out what the job has printed so far: its earlier attempts are in there too."""
        path = job_log(state)
        if path is not None:
            self._follower.skip(path)

    def job_log(self, state: RunState) -> None:
        """Print what the job has printed since: progress, and what becomes of it between steps."""
        path = job_log(state)
        if path is not None and self._rank is None:
            self._follower.show(path, f"job {state.job_id}", at_end=not state.is_open)

    def _head(self, run_dir: RunDir, attempt: Attempt) -> None:
        job = f", job {attempt.job_id}" if attempt.job_id else ""
        why = f" ({attempt.why})" if attempt.why and not attempt.message else ""
        name = run_dir.root.name
        self._say(f"--- attempt {attempt.number} of {name}{job}: {attempt.outcome}{why}")
        for text in (attempt.message, attempt.action):
            if text:
                self._say(for_terminal(text))

    def _lines(self, logs: LogDir, attempt: Attempt, *, at_end: bool) -> None:
        """Print rank by rank; the agents' own lines where no rank came to print any.

        Within one file the order is that of the file; between files there is none.
        """
        by_rank = ranks_in(logs)
        for rank, path in by_rank.items():
            if self._rank is None or rank == self._rank:
                self._follower.show(path, f"{_host(logs, rank, attempt)} {rank}", at_end=at_end)
        if not by_rank and attempt.outcome in ("failed", "lost"):
            for path in sorted(logs.root.glob("launch*.log")):
                self._follower.show(path, f"{_node(path, attempt)} agent", at_end=at_end)


def job_log(state: RunState) -> Path | None:
    """Return what the newest job has printed; None where there is none."""
    if state.submitted is None:
        return None
    found = state.submitted.job_dir.root.glob("slurm-*.log")
    return max(found, key=lambda path: modified(path) or 0.0, default=None)


def ranks_in(logs: LogDir) -> dict[int, Path]:
    """Return the logs of the ranks that printed anything, by rank."""
    return {rank_of(path): path for path in logs.rank_logs}


def _chosen(state: RunState, attempt: int | None, *, follow: bool) -> Attempt | None:
    """Return the attempt to begin with; None where the first is still to come."""
    by_number = {found.number: found for found in state.attempts}
    if attempt is None and (state.attempts or (follow and state.is_open)):
        return state.attempts[-1] if state.attempts else None
    if attempt in by_number:
        return by_number[attempt]
    there = f"attempts 1 to {max(by_number)}" if by_number else "no attempt yet"
    wanted = "no logs" if attempt is None else f"no attempt {attempt}"
    raise InputError(Problem(str(state.run_dir.root), "", f"has {wanted}: there is {there}."))


def _require_rank(logs: LogDir, rank: int) -> None:
    there = ranks_in(logs)
    if rank not in there:
        known = ", ".join(map(str, there)) or "none"
        raise InputError(
            Problem(str(logs.root), "", f"has no log of rank {rank}.", f"Ranks here: {known}.")
        )


def _host(logs: LogDir, rank: int, attempt: Attempt) -> str:
    """Return where a rank ran: as its heartbeat says, else by its place among the nodes."""
    host = read_record(logs.heartbeat(rank)).text("host")
    if host is not None:
        return host
    per_node = max(1, attempt.world_size // max(1, len(attempt.nodes)))
    place = rank // per_node
    return attempt.nodes[place] if place < len(attempt.nodes) else "?"


def _node(path: Path, attempt: Attempt) -> str:
    """Return the node of an agent's log: launch.log is node 0's, launch-node-K.log node K's."""
    found = re.fullmatch(r"launch-node-([0-9]+)\.log", path.name)
    place = int(found[1]) if found else 0
    return attempt.nodes[place] if place < len(attempt.nodes) else f"node-{place}"
