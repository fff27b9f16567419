"""The first node's side of a launch: it asks, decides for all, and says how it ended."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from launcher.cluster.launch import Launch
from launcher.cluster.node.agent import Meeting, free_port
from launcher.cluster.node.supervise import Leave
from launcher.cluster.nodes.facts import Inquiry, gather
from launcher.cluster.nodes.lines import Lines, Lost, Message
from launcher.cluster.nodes.link import LinkTest, open_listener
from launcher.cluster.nodes.meeting import StopAsked
from launcher.cluster.nodes.preflight import (
    PREFLIGHT_SECONDS,
    Facts,
    Preflight,
    compare,
    read_node_files,
    remove_files,
)
from launcher.cluster.outcome import RESUME, Cause
from launcher.cluster.report import NodeReport, Result, merge
from launcher.files.write import replace_text
from launcher.run_dir import LogDir
from launcher.world import host_name

FACTS_SECONDS = 15.0
GOODBYE_SECONDS = 5.0
END_SECONDS = 30.0
"""What a node gets to end its ranks and report, once an attempt has failed."""


class Head:
    """All nodes of a launch, as its first node sees them; node 0 itself among them."""

    def __init__(self, launch: Launch, lines: Lines, environment: dict[str, str]) -> None:
        self._launch = launch
        self._lines = lines
        self._environment = environment
        self._hosts = {line.node_rank: line.host for line in lines.all}
        self._reports: dict[int, NodeReport] = {}
        self._answers: dict[int, Message] = {}
        self._lost: list[Lost] = []
        self._leave: Leave | None = None
        self._stop: str | None = None
        self._attempt = 0
        self.last: Result = Result()
        """How the newest attempt ended."""

    @property
    def hosts(self) -> Sequence[str]:
        """The hosts, in order of node rank."""
        own = host_name()
        return [self._hosts.get(rank, own) for rank in range(self._launch.share.num_nodes)]

    @property
    def why_no_restart(self) -> str:
        """Why the ranks can't be started again on these nodes; empty where they can."""
        names = ", ".join(f"node {lost.node_rank} ({lost.host})" for lost in self._lost)
        return f"no restart: {names} is gone." if names else ""

    # As one of the nodes: what the others mean for this one's ranks.

    def told_to_leave(self) -> Leave | None:
        """Return why the ranks of this node shall end; None as long as they shall not."""
        self._hear()
        return self._leave

    def tell(self, leave: Leave) -> None:
        """Let all nodes end their ranks."""
        if self._leave is None:
            self._leave = leave
            self._tell_all("leave", why=leave.value)

    # As the one that decides.

    def preflight(self, inquiry: Inquiry, asked: Callable[[], bool]) -> Preflight:
        """Ask every node, let all of them add up some numbers, and return what came of it.

        Raises:
            StopAsked: a signal asked for a stop.
        """
        started = time.monotonic()
        try:
            own = gather(inquiry, self._launch.resolved, self._launch.share)
            self._tell_all("preflight", **vars(inquiry))
            answers = self._wait_for_answers(FACTS_SECONDS, asked)
            nodes = read_node_files(inquiry, compare([{**own, "host": host_name()}, *answers]))
        finally:
            remove_files(inquiry)
        found = Preflight(nodes, time.monotonic() - started)
        if found.is_ok and len(nodes) > 1:
            found = self._test_link(found, started + PREFLIGHT_SECONDS - 2.0, asked)
        return replace(found, seconds=time.monotonic() - started)

    def run(self, logs: LogDir) -> Result:
        """Start the ranks on all nodes, watch them to their end, and return how it was."""
        told = "" if self.last.cause is None else self.last.cause.text
        self._hear()
        self._attempt += 1
        self._reports, self._leave = {}, None
        reports: list[NodeReport] = []
        if not self._lost and self._stop is None:
            port = free_port()
            self._tell_all("start", number=int(logs.root.name), port=port, told=told)
            meeting = Meeting(port, self._address, self._environment)
            reports = [self._launch.carry_share(logs, meeting, self)]
            self._wait_for_reports(reports[0])
        if self._stop is not None and not reports:
            self.last = Result(stopped={"step": 0, "reason": self._stop}, asked=True)
        else:
            everyone = [*reports, *(self._reports[rank] for rank in sorted(self._reports))]
            self.last = merge(everyone, [lost_cause(lost) for lost in self._lost], logs)
        return self.last

    def end(self, exit_code: int, text: str) -> None:
        """Let the other nodes end, all with the same exit code."""
        self._tell_all("end", exit_code=exit_code, text=text)
        # Hanging up at once could take back what was just said: a connection that is closed with
        # something unread in it is reset.
        deadline = time.monotonic() + GOODBYE_SECONDS
        while self._lines.all and time.monotonic() < deadline:
            time.sleep(0.02)

    @property
    def _address(self) -> str:
        lines = self._lines.all
        return lines[0].own_address if lines else "127.0.0.1"

    def _tell_all(self, kind: str, **values: Any) -> None:
        self._lines.tell_all({"kind": kind, "attempt": self._attempt, **values})

    def _hear(self) -> None:
        """Take in what the other nodes have said."""
        for found in self._lines.take():
            if isinstance(found, Lost):
                self._lost.append(found)
                self.tell(Leave.FAILED)
                continue
            node_rank, message = found
            if message["kind"] == "stop":
                self._stop = str(message["why"])
            elif message["kind"] == "answer":
                self._answers[node_rank] = message["values"]
            elif message.get("attempt") != self._attempt:
                continue  # of an attempt that is over
            elif message["kind"] == "leave":
                self.tell(Leave(message["why"]))
            elif message["kind"] == "report":
                self._reports[node_rank] = NodeReport.from_message(message["values"])

    def _wait_for_answers(self, seconds: float, asked: Callable[[], bool]) -> list[Facts]:
        """Return what each other node answered, in order; a node that doesn't has that problem."""
        deadline = time.monotonic() + seconds
        wanted = range(1, self._launch.share.num_nodes)
        while len(self._answers) < len(wanted) and time.monotonic() < deadline:
            self._hear()
            if asked() or self._stop is not None:
                raise StopAsked
            if self._lost:
                break
            time.sleep(0.02)
        answers, self._answers = self._answers, {}
        lost = {found.node_rank: f"was lost: {found.why}" for found in self._lost}
        silent = f"did not answer within {seconds:.0f} s"
        return [
            answers.get(rank)
            or {
                "node_rank": rank,
                "host": self.hosts[rank],
                "problems": [lost.get(rank, silent)] if rank in lost or not lost else [],
            }
            for rank in wanted
        ]

    def _test_link(self, found: Preflight, deadline: float, asked: Callable[[], bool]) -> Preflight:
        listener, port = open_listener()
        seconds = deadline - time.monotonic()
        num_nodes = self._launch.share.num_nodes
        with listener:
            self._tell_all("link", port=port, seconds=seconds)
            test = LinkTest(self._address, port, 0, num_nodes, seconds, self._environment, listener)
            try:
                results = self._wait_for_answers(seconds, asked)
            except BaseException:
                test.end()
                raise
        own = test.result(deadline + 2.0 - time.monotonic())
        return judge_link(found, [own, *results])

    def _wait_for_reports(self, own: NodeReport) -> None:
        """Wait until every node that is there has told how its ranks ended."""
        ended_badly = not own.finished and own.stopped is None
        deadline: float | None = None
        while True:
            self._hear()
            lost = {found.node_rank for found in self._lost}
            awaited = [
                rank
                for rank in range(1, self._launch.share.num_nodes)
                if rank not in self._reports and rank not in lost
            ]
            if not awaited:
                return
            if deadline is None and (ended_badly or self._leave is not None):
                deadline = time.monotonic() + END_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                why = f"it did not end its ranks within {END_SECONDS:.0f} s"
                self._lost += [Lost(r, self.hosts[r], "", why, time.time()) for r in awaited]
                return
            time.sleep(0.02)


def new_inquiry(folders: Mapping[str, str], prepared: str | None) -> Inquiry:
    """Return a question to all nodes, and put files where they shall find them.

    `folders`: what a folder is, and its path. `prepared`: see Inquiry.
    """
    inquiry = Inquiry(secrets.token_hex(8), folders, prepared)
    for folder in folders.values():
        replace_text(inquiry.head_file(folder), "")
    return inquiry


def judge_link(found: Preflight, results: Sequence[Mapping[str, Any]]) -> Preflight:
    """Return the preflight with what the link test showed.

    A process that was not ready in time (torch from a slow disk) says nothing of the link; one that
    was there and could not add does.
    """
    errors = {
        rank: str(result.get("error") or "; ".join(result.get("problems", ())))
        for rank, result in enumerate(results)
        if "seconds" not in result
    }
    if not errors:
        return replace(found, link=results[0])
    if any(result.get("late") or result.get("problems") for result in results):
        late = sorted({rank for result in results for rank in result.get("late", ()) if rank >= 0})
        names = ", ".join(f"node {rank}" for rank in late or sorted(errors))
        return replace(found, link={"error": f"{names} was not ready in time"})
    told = "; ".join(f"node {rank}: {error}" for rank, error in errors.items())
    return replace(found, shared_problems=[f"the nodes can't add up numbers: {told}"])


def lost_cause(lost: Lost) -> Cause:
    """Return what is said of a lost node."""
    return Cause(
        f"{lost}. {RESUME}",
        category="node",
        nodes=(lost.host,),
        kind="Node lost",
        host=lost.host,
        seen=lost.seen,
    )
