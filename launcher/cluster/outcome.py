"""What a launch came to, in a few lines: one summary, one clean stop, or one root cause."""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from launcher.cluster.node.agent_log import ended_pids, port_was_taken
from launcher.cluster.node.oom import MemoryGroup
from launcher.cluster.node.ranks import Rank
from launcher.cluster.node.share import Share
from launcher.cluster.node.supervise import Ending
from launcher.cluster.node.watchdog import Hang
from launcher.errors import EXIT_FAILED, EXIT_STOPPED
from launcher.escape import for_terminal
from launcher.files.read import Record, read_object, read_record
from launcher.files.write import replace_text
from launcher.recipe.prepared import Summary
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import LogDir, RunDir
from launcher.world import host_name

RESUME = "The same command resumes the run."
CONSEQUENCES = ("lost peer", "timeout")
"""Classes of failures that follow from another rank's: never the cause where there is another."""
GPU_MEMORY_CURE = (
    "Lower train.micro_batch_size, set model.gradient_checkpointing: true, or use a DeepSpeed"
    " config with a higher ZeRO stage or offload_optimizer."
)
HOST_MEMORY_CURE = (
    "Lower train.micro_batch_size, set model.gradient_checkpointing: true, use a DeepSpeed"
    " config with a higher ZeRO stage or without offload, or start fewer ranks on a node."
)


Category = Literal[
    "out of memory", "collective timeout", "node", "data row", "code", "input", "non-finite",
    "killed", "port", "late node",
]  # fmt: skip
OF_CLASS: Mapping[str, Category] = {
    "out of memory": "out of memory",
    "timeout": "collective timeout",
    "lost peer": "node",
    "input": "input",
    "non-finite": "non-finite",
}
OWN_FRAME = re.compile(r'^  File "[^"]*/launcher/(\w+)/[^"]*", line', re.MULTILINE)


@dataclass(frozen=True)
class Cause:
    """Why an attempt failed."""

    text: str
    exit_code: int = EXIT_FAILED
    can_restart: bool = True
    """False for what the same attempt would meet again: bad input, numbers gone bad."""
    category: Category = "code"
    """What class of things it is: what can be done about it goes by that."""
    nodes: tuple[str, ...] = ()
    """Hosts that the next attempt had better do without."""
    kind: str = "Failed"
    """The error's name, or what happened to the rank."""
    rank: int | None = None
    host: str | None = None
    traceback: str = ""
    seen: float | None = None
    """When it happened, in seconds since the epoch of its host's clock."""
    follows: bool = False
    """Whether it may only follow from what happened elsewhere."""

    def write(self, logs: LogDir) -> None:
        """Keep it beside the logs that led to it."""
        record = {"time": time.time(), **asdict(self)}
        record["message"] = record.pop("text")
        del record["seen"], record["follows"]
        known = {name: value for name, value in record.items() if value not in (None, "")}
        with contextlib.suppress(OSError):  # on a full disk it is still said
            replace_text(logs.cause, json.dumps(known, indent=1))


def print_summary(run_dir: RunDir, *, already: bool = False) -> None:
    """Print how the run ended, its best evaluation and where everything lies."""
    summary = read_record(run_dir.summary)
    console = Console(highlight=False)
    what = "stopped early" if summary.text("outcome") == "early_stopped" else "finished"
    was = "was already" if already else "is"
    step = summary.integer("step")
    at = "" if step is None else f" at step {step}"
    console.print(f"[bold]{escape(run_dir.root.name)}[/] {was} done: {what}{at}")
    best = summary.record("best")
    metric, value, step = best.text("metric"), best.number("value"), best.integer("step")
    if metric is not None and value is not None and step is not None:
        console.print(f"  best      {escape(metric)} {value:.4f} at step {step}")
    since = summary.integer("overfitting_since")
    if since is not None:
        console.print(f"  [yellow]overfitting since step {since}[/]")
    console.print(f"  export    {run_dir.export}", markup=False)
    console.print(f"  report    {run_dir.report}", markup=False)
    if already:
        console.print("  Use --fresh to start over in a new folder.")


def print_warnings(resolved: ResolvedRun) -> None:
    """Print what is allowed and yet looks like a mistake."""
    for warning in resolved.warnings:
        say(f"warning: {warning}")


def print_prepared(summary: Summary) -> None:
    """Print rows and tokens of prepared data in one line, then their notes and warnings."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    counts = [
        f"{rows:,} {split} rows, {tokens:,} tokens"
        for split, (rows, tokens) in summary.splits.items()
    ]
    console.print(f"data as prepared before: {'; '.join(counts)} (report: `launcher prepare`)")
    for kind, lines in (("note", summary.notes), ("warning", summary.warnings)):
        for line in lines:
            console.print(for_terminal(f"{kind}: {line}"))


def print_stop(run_dir: RunDir, stopped: Mapping[str, Any]) -> int:
    """Print where a run was stopped and what holds its state; return the exit code of a stop."""
    step = stopped.get("step") or 0
    when = f"at step {step}" if step else "before the first step"
    saved = run_dir.latest.readlink().name if run_dir.latest.is_symlink() else None
    kept = f"checkpoint {saved}" if saved else "nothing to save yet"
    say(
        f"{run_dir.root.name} stopped {when} ({stopped.get('reason') or 'asked to stop'}); {kept};"
        " the same command resumes it."
    )
    return EXIT_STOPPED


def clean_stop(
    ending: Ending, logs: LogDir, share: Share | None = None
) -> Mapping[str, Any] | None:
    """Return step and reason of a clean stop; None if the attempt ended otherwise.

    `share`: the ranks that are this node's; None: all are.
    """
    stopped = read_object(logs.stopped)
    if stopped is not None:
        return stopped
    failures = share.failures(logs) if share else logs.failures
    if ending.before_start and not failures:
        return {"step": 0, "reason": ending.before_start}
    if ending.code and ending.ranks and all(rank.is_done for rank in ending.ranks):
        return {"step": ending.step, "reason": "asked to stop"}
    return None


def find_cause(ending: Ending, logs: LogDir, share: Share | None = None) -> Cause:
    """Return the one root cause of a failed attempt, as far as one node knows.

    `share`: the ranks that are this node's; None: all are. What only follows from another rank's
    end (a closed connection, a collective that gave up) is the cause only where nothing else is
    known.
    """
    if ending.hang is not None:
        return hang_cause(ending.hang, logs)
    launch_log = share.launch_log(logs) if share else logs.launch
    paths = share.failures(logs) if share else logs.failures
    failures = [found for path in paths if (found := read_object(path)) is not None]
    first = _first([found for found in failures if found.integer("rank") is not None])
    if first is not None and first.text("class") not in CONSEQUENCES:
        return _failure_cause(first, logs)
    codes = ended_pids(launch_log)
    dead = _first_dead(ending.dead, codes)
    if dead is not None:
        code = codes.get(dead.process.pid)
        group = ending.out_of_memory.get(dead.rank)
        return _dead_cause(dead, code, group, logs, launch_log, ending.dead_since)
    if first is not None:
        return _failure_cause(first, logs)
    if port_was_taken(launch_log):
        text = f"the port at which the ranks meet was taken. Log: {launch_log}. {RESUME}"
        return Cause(text, category="port", kind="Port")
    how = (
        f"was killed by {_signal_name(-ending.code)}"
        if ending.code < 0
        else f"ended with exit code {ending.code}"
    )
    return Cause(
        f"accelerate launch {how} and no rank said why. Log: {launch_log}. {RESUME}",
        category="killed" if ending.code < 0 else "code",
        follows=True,
    )


def say(message: str) -> None:
    """Print one message on the standard error stream, as it is."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(for_terminal(message))


def _first(failures: list[Record]) -> Record | None:
    """Return the earliest failure that is no consequence; the earliest of all where all are."""

    def order(failure: Record) -> tuple[bool, float]:
        seen = failure.number("time")
        return failure.text("class") in CONSEQUENCES, math.inf if seen is None else seen

    return min(failures, key=order, default=None)


def _first_dead(dead: list[Rank], codes: Mapping[int, int]) -> Rank | None:
    """Return the rank that ended first without a word, by the agent's account of the same moment.

    SIGTERM is the agent's own doing, to ranks that could not take it yet.
    """
    order = list(codes)
    candidates = [rank for rank in dead if codes.get(rank.process.pid) != -signal.SIGTERM] or dead
    return min(
        candidates,
        key=lambda rank: order.index(rank.process.pid) if rank.process.pid in order else len(order),
        default=None,
    )


def _failure_cause(failure: Record, logs: LogDir) -> Cause:
    rank, host = failure.integer("rank") or 0, failure.text("host") or "an unknown host"
    kind, message = failure.text("kind") or "an error", failure.text("message") or "no message"
    expected = bool(failure.get("expected"))
    if expected:
        text = message
    else:
        where = _where(failure)
        text = f"rank {rank} on {host} failed first{where}: {kind}: {message}"
        if failure.text("class") == "out of memory":
            text = f"rank {rank} on {host} ran out of memory{where}: {message}"
            text += f"\n{GPU_MEMORY_CURE if 'CUDA' in message else HOST_MEMORY_CURE}"
    return Cause(
        f"{text}\nLog: {logs.rank(rank)}",
        failure.integer("exit_code") or EXIT_FAILED,
        can_restart=not expected,
        category=_category(failure),
        kind=kind,
        rank=rank,
        host=host,
        traceback=failure.text("traceback") or "",
        seen=failure.number("time"),
        follows=failure.text("class") in CONSEQUENCES,
    )


def _category(failure: Record) -> Category:
    found = OF_CLASS.get(failure.text("class") or "", "code")
    frames = OWN_FRAME.findall(failure.text("traceback") or "")
    if found == "code" and frames and frames[-1] == "data":
        return "data row"  # what raised it was reading one
    return found


def _dead_cause(
    rank: Rank,
    code: int | None,
    group: MemoryGroup | None,
    logs: LogDir,
    launch_log: Path,
    seen: float | None,
) -> Cause:
    host = rank.beat.text("host") or host_name()
    who = f"rank {rank.rank} on {host}"
    where = _where(rank.beat)
    log = logs.rank(rank.rank) if logs.rank(rank.rank).exists() else launch_log
    kind = "Killed"
    category: Category = "killed"
    if group is not None:
        limit = group.limit_bytes()
        which = f" under a limit of {limit / 2**20:,.0f} MiB" if limit else ""
        kind, category = "Out of memory", "out of memory"
        text = (
            f"{who} ran out of memory{where}: the kernel ended it by {_signal_name(9)}{which}."
            f" {HOST_MEMORY_CURE}\nLog: {log}. {RESUME}"
        )
    elif code is None:
        text = f"{who} ended without a word{where}. Log: {log}. {RESUME}"
    elif code < 0:
        shown = f" Its stacks: {logs.stacks(rank.rank)}." if logs.stacks(rank.rank).exists() else ""
        text = f"{who} was killed by {_signal_name(-code)}{where}.{shown} Log: {log}. {RESUME}"
    else:
        text = f"{who} ended with exit code {code} and no word{where}. Log: {log}. {RESUME}"
    return Cause(text, category=category, kind=kind, rank=rank.rank, host=host, seen=seen)


def hang_cause(hang: Hang, logs: LogDir) -> Cause:
    """Return what is said of ranks that came to no new place."""
    limit = f"run.timeout_seconds is {hang.timeout_seconds:g}"
    end = f"Log: {logs.root}. {RESUME}"
    if not hang.late:
        missing = ", ".join(str(rank) for rank in hang.missing)
        return Cause(
            f"rank {missing} never started ({limit}). {end}",
            category="collective timeout",
            kind="Late",
        )
    parts = []
    for late in hang.late:
        where = _where({"phase": late.phase, "step": late.step, "micro_step": late.micro_step})
        parts.append(
            f"rank {late.rank} on {late.host} made no progress for {late.seconds:.0f} s{where}"
            f" ({limit}): {late.why}."
        )
    stacks = "Stacks of the ranks are in the stacks-rank-N.txt files beside the logs."
    first = hang.late[0]
    text = "\n".join([*parts, f"{stacks} {end}"])
    return Cause(text, category="collective timeout", kind="Late", rank=first.rank, host=first.host)


def _where(place: Mapping[str, Any]) -> str:
    """Return step, micro-step and phase as a clause; empty where nothing is known."""
    parts = []
    if place.get("step") is not None:
        parts.append(f"step {place['step']}")
        if place.get("micro_step") is not None and place.get("phase") == "train":
            parts.append(f"micro-step {place['micro_step']}")
    if place.get("phase"):
        parts.append(f"phase {place['phase']}")
    return f" at {', '.join(parts)}" if parts else ""


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
