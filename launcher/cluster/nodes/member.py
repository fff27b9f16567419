"""Any other node's side of a launch: it does what the first one says, and tells what it sees."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.cluster.launch import Launch, close_attempt
from launcher.cluster.node.agent import Meeting
from launcher.cluster.node.supervise import Leave
from launcher.cluster.nodes.facts import Inquiry, gather
from launcher.cluster.nodes.lines import Line, Lines, Lost, Message
from launcher.cluster.nodes.link import LinkTest
from launcher.cluster.nodes.placement import Placement
from launcher.cluster.outcome import RESUME, Cause, say
from launcher.errors import EXIT_FAILED, InputError
from launcher.run_dir import LogDir
from launcher.world import host_name

FOLDER_SECONDS = 20.0
"""How long a folder that the head has just made may stay unseen on a network file system."""


class Member:
    """This node, as one that the head leads."""

    def __init__(
        self, launch: Launch, lines: Lines, environment: dict[str, str], *, is_quiet: bool
    ) -> None:
        self._launch = launch
        self._lines = lines
        self._line: Line = lines.all[0]
        self._environment = environment
        self._is_quiet = is_quiet
        self._inbox: list[Message] = []
        self._head_lost: Lost | None = None
        self._leaves: dict[int, Leave] = {}
        """Why the ranks shall end, by attempt."""
        self._attempt = 0
        self._has_told_stop = False
        self._logs: LogDir | None = None

    def told_to_leave(self) -> Leave | None:
        """Return why the ranks of this node shall end; None as long as they shall not."""
        self._hear()
        if self._head_lost is None:
            return self._leaves.get(self._attempt)
        # Before the ranks have ended: Slurm may end all of this first, the batch script being gone.
        self._write_cause(self._head_lost)
        return Leave.FAILED

    def tell(self, leave: Leave) -> None:
        """Let the head know that the ranks of this node are ending."""
        self._send("leave", why=leave.value)

    def follow(self) -> int:
        """Do what the head says until it says that it is over; return the exit code."""
        doing: dict[str, Callable[[Message], None]] = {
            "preflight": self._answer,
            "link": self._test_link,
            "start": self._carry,
        }
        while True:
            message = self._next()
            if message is None:
                return self._end_without_head()
            if message["kind"] == "end":
                self._say(str(message.get("text", "")))
                return int(message["exit_code"])
            self._attempt = int(message["attempt"])
            if message["kind"] in doing:
                doing[message["kind"]](message)

    def _next(self) -> Message | None:
        """Return the next thing to do; None if the head is lost."""
        while True:
            self._hear()
            if self._inbox:
                return self._inbox.pop(0)
            if self._head_lost is not None:
                return None
            asked = self._launch.signals.asked
            if asked is not None and not self._has_told_stop:
                self._has_told_stop = True
                self._send("stop", why=asked.name)
            time.sleep(0.02)

    def _hear(self) -> None:
        for found in self._lines.take():
            if isinstance(found, Lost):
                self._head_lost = found
            elif found[1]["kind"] == "leave":
                self._leaves[int(found[1]["attempt"])] = Leave(found[1]["why"])
            else:
                self._inbox.append(found[1])

    def _answer(self, message: Message) -> None:
        inquiry = Inquiry(message["nonce"], message["folders"], message["prepared"])
        facts = gather(inquiry, self._launch.resolved, self._launch.share)
        self._send("answer", values={**facts, "host": host_name()})

    def _test_link(self, message: Message) -> None:
        share, seconds = self._launch.share, float(message["seconds"])
        test = LinkTest(
            self._line.address,
            int(message["port"]),
            share.node_rank,
            share.num_nodes,
            seconds,
            self._environment,
        )
        self._send("answer", values=test.result(seconds))

    def _carry(self, message: Message) -> None:
        self._say(str(message.get("told", "")))
        self._logs = self._launch.run_dir.logs(int(message["number"]))
        self._wait_for_folder(self._logs.root)
        meeting = Meeting(int(message["port"]), self._line.address, self._environment)
        report = self._launch.carry_share(self._logs, meeting, self)
        self._send("report", values=report.to_message())

    def _wait_for_folder(self, folder: Path) -> None:
        deadline = time.monotonic() + FOLDER_SECONDS
        while not folder.is_dir() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _send(self, kind: str, **values: Any) -> None:
        self._line.send({"kind": kind, "attempt": self._attempt, **values})

    def _say(self, text: str) -> None:
        """Say what the head said, where it is not read beside the head's own words."""
        if text and not self._is_quiet:
            say(text)

    def _end_without_head(self) -> int:
        """Say that the head is lost, and write it down, since the head can't."""
        assert self._head_lost is not None
        self._write_cause(self._head_lost)  # before printing: stdout may be closed
        say(self._without_head(self._head_lost))
        if self._logs is not None:
            close_attempt(self._logs, EXIT_FAILED, "failed")
        return EXIT_FAILED

    def _without_head(self, lost: Lost) -> str:
        own = f"node {self._launch.share.node_rank} ({host_name()})"
        return f"the head, {lost}. The ranks of {own} are ended. {RESUME}"

    def _write_cause(self, lost: Lost) -> None:
        if self._logs is None or self._logs.cause.exists():
            return
        cause = Cause(
            self._without_head(lost),
            category="node",
            nodes=(lost.host,),
            kind="Node lost",
            host=lost.host,
        )
        cause.write(self._logs)


def refuse(placement: Placement, lines: Lines, error: InputError) -> int:
    """Tell the head why this node can't take part; return the exit code of the launch."""
    (line,) = lines.all
    told = {
        "node_rank": placement.node_rank,
        "host": host_name(),
        # In a job all nodes read the same files: what only some refuse is a matter of those nodes.
        "refused": placement.job_id is None,
        "problems": [str(problem) for problem in error.problems],
    }
    while True:
        for found in lines.take():
            if isinstance(found, Lost) or found[1]["kind"] == "end":
                return error.exit_code
            line.send({"kind": "answer", "values": told})
        time.sleep(0.02)
