"""One launch, attempt after attempt, on however many nodes: start, wait, tell, start again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from launcher.cluster.node.agent import Meeting, start_agent
from launcher.cluster.node.devices import visible_gpus
from launcher.cluster.node.share import Share
from launcher.cluster.node.signals import StopSignals
from launcher.cluster.node.supervise import Others, supervise
from launcher.cluster.outcome import Cause, print_stop, print_summary, say
from launcher.cluster.report import NodeReport, Result, report_on
from launcher.cluster.restarts import Restarts
from launcher.errors import EXIT_STOPPED
from launcher.files.read import read_object
from launcher.files.write import make_folder, replace_text
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import LogDir, RunDir

Outcome = Literal["running", "finished", "stopped", "failed"]
PORT_RETRIES = 3


@dataclass(frozen=True)
class Carrier:
    """What started a launch."""

    command: str = "launcher run"
    job_id: str | None = None
    job_folder: str | None = None
    """Relative to the run folder."""
    restart_count: int | None = None
    """How often Slurm has requeued the job."""


@dataclass(frozen=True)
class Launch:
    """What stays the same over all attempts of one launch, on one node."""

    resolved: ResolvedRun
    run_dir: RunDir
    share: Share
    signals: StopSignals
    deadline: float | None
    """When the launch has to be over, in monotonic seconds of this host."""
    carrier: Carrier = Carrier()

    def open_attempt(self, hosts: Sequence[str]) -> Attempt:
        """Make the folder of the next attempt, and say in it that it runs."""
        logs = self.run_dir.next_logs()
        make_folder(logs.root)
        attempt = Attempt(
            logs=logs,
            attempt=int(logs.root.name),
            command=self.carrier.command,
            job_id=self.carrier.job_id,
            job_folder=self.carrier.job_folder,
            restart_count=self.carrier.restart_count,
            nodes=tuple(hosts),
            ranks_per_node=self.share.ranks_per_node,
            world_size=self.share.world_size,
            gpus=self.share.world_size if visible_gpus() else 0,
            started=_now(),
        )
        attempt.write()
        return attempt

    def carry_share(self, logs: LogDir, meeting: Meeting, others: Others) -> NodeReport:
        """Start this node's ranks and watch them to their end; return how it was."""
        agent = start_agent(self.resolved, self.run_dir, logs, self.share, meeting, self.deadline)
        timeout = self.resolved.recipe.run.timeout_seconds
        ending = supervise(agent, logs, self.share, timeout, self.signals, others)
        asked = self.signals.asked is not None
        return report_on(ending, logs, self.run_dir, self.share, asked=asked)


@dataclass(frozen=True)
class Attempt:
    """One attempt, as `attempt.json` has it; times are UTC."""

    logs: LogDir
    attempt: int
    command: str
    job_id: str | None
    job_folder: str | None
    restart_count: int | None
    nodes: tuple[str, ...]
    ranks_per_node: int
    world_size: int
    gpus: int
    """GPUs that all nodes together kept busy."""
    started: str
    ended: str | None = None
    exit_code: int | None = None
    outcome: Outcome = "running"

    def write(self) -> None:
        """Write `attempt.json`, for whoever follows the run or asks afterwards what became of it.

        A full disk keeps no attempt from running.
        """
        record: dict[str, Any] = asdict(self)
        del record["logs"]
        record["nodes"] = list(self.nodes)
        with contextlib.suppress(OSError):
            replace_text(self.logs.attempt, json.dumps(record, indent=1))

    def on(self, hosts: Sequence[str]) -> Attempt:
        """Note which hosts carry it, once they are known."""
        found = replace(self, nodes=tuple(hosts))
        found.write()
        return found

    def end(self, exit_code: int, outcome: Outcome) -> None:
        """Note how it ended."""
        replace(self, ended=_now(), exit_code=exit_code, outcome=outcome).write()

    def stop(self, stopped: Mapping[str, Any]) -> None:
        """Note that it was stopped cleanly, at which step and why, where no rank has."""
        if not self.logs.stopped.exists():
            with contextlib.suppress(OSError):
                replace_text(self.logs.stopped, json.dumps(dict(stopped)))
        self.end(EXIT_STOPPED, "stopped")

    def fail(self, cause: Cause) -> int:
        """Note why it failed; return the exit code."""
        cause.write(self.logs)
        self.end(cause.exit_code, "failed")
        return cause.exit_code


def close_attempt(logs: LogDir, exit_code: int, outcome: Outcome) -> None:
    """Note how an attempt ended whose own head can't."""
    record = read_object(logs.attempt)
    if record is not None:
        ended = {"ended": _now(), "exit_code": exit_code, "outcome": outcome}
        with contextlib.suppress(OSError):
            replace_text(logs.attempt, json.dumps({**record, **ended}, indent=1))


class Crew(Protocol):
    """The nodes of a launch, as the one sees them that decides for all."""

    @property
    def hosts(self) -> Sequence[str]:
        """The hosts, in order of node rank."""

    @property
    def why_no_restart(self) -> str:
        """Why the ranks can't be started again on these nodes; empty where they can."""

    def run(self, logs: LogDir) -> Result:
        """Start the ranks on all nodes, watch them to their end, and return how it was."""


def carry(launch: Launch, crew: Crew, attempt: Attempt | None = None) -> int:
    """Start the ranks, again and again where a restart is allowed and brings the run forward.

    `attempt`: the first one, where its folder is open already. Returns the exit code of the launch.
    """
    run_dir = launch.run_dir
    restarts = Restarts(run_dir, launch.resolved.recipe.run.max_restarts, launch.deadline)
    port_retries = 0
    while True:
        attempt = attempt or launch.open_attempt(crew.hosts)
        result = crew.run(attempt.logs)
        if result.finished:
            attempt.end(0, "finished")
            print_summary(run_dir)
            return 0
        if result.stopped is not None:
            attempt.stop(result.stopped)
            return print_stop(run_dir, result.stopped)
        assert result.cause is not None
        exit_code = attempt.fail(result.cause)
        attempt = None
        asked = result.asked or launch.signals.asked is not None
        if asked or run_dir.is_asked_to_stop:
            say(result.cause.text)
            return exit_code
        if result.cause.category == "port" and port_retries < PORT_RETRIES:
            port_retries += 1
            say(f"the ranks' port was taken: trying another ({port_retries} of {PORT_RETRIES}).")
            continue
        say(result.cause.text)
        why_not = crew.why_no_restart or restarts.why_not(result.cause, result.step)
        if why_not is not None:
            if why_not:
                say(why_not)
            return exit_code
        say(f"restart {restarts.done} of {restarts.most} from step-{restarts.newest:06d}.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def monotonic_deadline(max_hours: float | None) -> float | None:
    """Return when a launch that starts now has to be over; None without a limit."""
    return None if max_hours is None else time.monotonic() + 3600 * max_hours
