"""How an attempt ended: what each node reports, and the one thing that all of it comes to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launcher.cluster.node.share import Share
from launcher.cluster.node.supervise import Ending
from launcher.cluster.node.watchdog import Hang, LateRank, Seen, judge
from launcher.cluster.outcome import Cause, clean_stop, find_cause, hang_cause
from launcher.run_dir import LogDir, RunDir
from launcher.world import host_name


@dataclass(frozen=True)
class NodeReport:
    """How one node's part of an attempt ended."""

    node_rank: int
    host: str
    finished: bool
    step: int | None
    stopped: Mapping[str, Any] | None
    """Step and reason of a clean stop."""
    cause: Cause | None
    hang: Hang | None
    asked: bool
    """Whether a signal asked this node to stop."""

    def to_message(self) -> dict[str, Any]:
        """Return it as JSON; a moment becomes an age, since clocks of hosts differ."""
        message = asdict(self)
        if message["cause"] and self.cause and self.cause.seen is not None:
            message["cause"]["seen"] = time.time() - self.cause.seen
        return message

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> NodeReport:
        """Return what another node sent, with its moments on this host's clock."""
        cause, hang = message["cause"], message["hang"]
        if cause is not None:
            seen = None if cause["seen"] is None else time.time() - float(cause["seen"])
            cause = Cause(**{**cause, "seen": seen, "nodes": tuple(cause["nodes"])})
        if hang is not None:
            hang = Hang(
                late=tuple(LateRank(**rank) for rank in hang["late"]),
                timeout_seconds=hang["timeout_seconds"],
                missing=tuple(hang["missing"]),
                seen=tuple(Seen(**rank) for rank in hang["seen"]),
            )
        return cls(**{**message, "cause": cause, "hang": hang})


@dataclass(frozen=True)
class Result:
    """How an attempt ended, all nodes taken together."""

    finished: bool = False
    stopped: Mapping[str, Any] | None = None
    cause: Cause | None = None
    """Set where it neither finished nor was stopped."""
    step: int | None = None
    """The furthest step that any rank was at."""
    asked: bool = False


def report_on(
    ending: Ending, logs: LogDir, run_dir: RunDir, share: Share, *, asked: bool
) -> NodeReport:
    """Return what one node has to say of its part of an attempt."""
    finished = ending.code == 0 and (share.node_rank > 0 or run_dir.summary.exists())
    stopped = None if finished else clean_stop(ending, logs, share)
    failed = not finished and stopped is None
    return NodeReport(
        node_rank=share.node_rank,
        host=host_name(),
        finished=finished,
        step=ending.step,
        stopped=stopped,
        cause=find_cause(ending, logs, share) if failed else None,
        hang=ending.hang if failed else None,
        asked=asked,
    )


def merge(reports: Sequence[NodeReport], lost: Sequence[Cause], logs: LogDir) -> Result:
    """Return what the reports of all nodes come to; `lost`: nodes that can't report any more."""
    step = max((report.step for report in reports if report.step is not None), default=None)
    asked = any(report.asked for report in reports)
    if not lost and all(report.finished for report in reports):
        return Result(finished=True, step=step)
    stops = [report.stopped for report in reports if report.stopped is not None]
    if stops:
        return Result(stopped=max(stops, key=lambda stop: stop["step"] or 0), step=step)
    return Result(cause=_root(reports, lost, logs), step=step, asked=asked)


def _root(reports: Sequence[NodeReport], lost: Sequence[Cause], logs: LogDir) -> Cause:
    """Return the earliest cause that doesn't only follow from another one."""
    hangs = [report.hang for report in reports if report.hang is not None]
    if hangs and not lost:
        # Each node knows its own ranks: who is waited for shows once all of them are compared.
        seen = sorted((rank for hang in hangs for rank in hang.seen), key=lambda rank: rank.rank)
        missing = sorted(rank for hang in hangs for rank in hang.missing)
        hang = judge(seen, missing, hangs[0].timeout_seconds)
        assert hang is not None, "each of them had named somebody"
        hang.write(logs)
        return hang_cause(hang, logs)
    causes = [*lost, *(report.cause for report in reports if report.cause is not None)]
    return min(causes, key=lambda cause: (cause.follows, cause.seen or float("inf")))
