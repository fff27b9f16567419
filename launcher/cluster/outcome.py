"""What a launch came to, read from its files: one summary, or one root cause."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

from rich.console import Console

from launcher.errors import EXIT_FAILED
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import LogDir, RunDir

# One rank in the elastic agent's last table, if a signal ended it:
# https://docs.pytorch.org/docs/stable/elastic/errors.html
ENDED_BY_SIGNAL = re.compile(
    r"^  rank\s*:\s*(\d+) \(local_rank: \d+\)\n^  exitcode\s*:\s*-(\d+)", re.MULTILINE
)
LOST_PEER = re.compile(r"gloo|nccl|TCPStore|connection (closed|reset|refused)", re.IGNORECASE)
"""What a rank says when another one is gone: a consequence, never the cause."""


def print_summary(run_dir: RunDir, *, already: bool = False) -> None:
    """Print how the run ended, its best evaluation and where everything lies."""
    summary = json.loads(run_dir.summary.read_text())
    console = Console(highlight=False)
    what = {"finished": "finished", "early_stopped": "stopped early"}[summary["outcome"]]
    was = "was already" if already else "is"
    console.print(f"[bold]{run_dir.root.name}[/] {was} done: {what} at step {summary['step']}")
    best = summary["best"]
    if best is not None:
        console.print(f"  best      {best['metric']} {best['value']:.4f} at step {best['step']}")
    if summary["overfitting_since"] is not None:
        console.print(f"  [yellow]overfitting since step {summary['overfitting_since']}[/]")
    console.print(f"  export    {run_dir.export}")
    console.print(f"  report    {run_dir.report}")
    if already:
        console.print("  Use --fresh to start over in a new folder.")


def print_warnings(resolved: ResolvedRun) -> None:
    """Print what is allowed and yet looks like a mistake."""
    for warning in resolved.warnings:
        _say(f"warning: {warning}")


def explain_failure(logs: LogDir, code: int) -> int:
    """Print the first failure of any rank with its log; return the exit code that fits it."""
    failures = [json.loads(path.read_text()) for path in logs.failures]
    first = min(failures, key=lambda failure: float(failure["time"]), default=None)
    killed = _killed_rank(logs)
    if killed is not None and (first is None or LOST_PEER.search(first["message"])):
        rank, number = killed
        why = " (kill -9, or out of memory)" if number == signal.SIGKILL else ""
        _say(
            f"rank {rank} was killed by signal {number}{why}."
            f" Log: {logs.rank(rank)}. The same command resumes the run."
        )
        return EXIT_FAILED
    if first is not None:
        return _print_failure(first, logs)
    _say(
        f"accelerate launch ended with exit code {code} and no rank said why."
        f" Log: {logs.launch}. The same command resumes the run."
    )
    return EXIT_FAILED


def _killed_rank(logs: LogDir) -> tuple[int, int] | None:
    """Return rank and signal of a rank that a signal ended; SIGTERM is the agent's own doing."""
    table = logs.launch.read_text(errors="replace")
    found = ((int(rank), int(number)) for rank, number in ENDED_BY_SIGNAL.findall(table))
    return next((entry for entry in found if entry[1] != signal.SIGTERM), None)


def _print_failure(failure: dict[str, Any], logs: LogDir) -> int:
    rank = failure["rank"]
    if failure["expected"]:
        _say(failure["message"])
    else:
        head = f"rank {rank} on {failure['host']} failed first: {failure['kind']}"
        _say(f"{head}: {failure['message']}")
    _say(f"Log: {logs.rank(rank)}")
    return int(failure["exit_code"])


def _say(message: str) -> None:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)
