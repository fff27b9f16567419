"""What a launch came to, read from its files: one summary, or one root cause."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from launcher.errors import EXIT_FAILED
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import RunDir

# The elastic agent's last table: https://docs.pytorch.org/docs/stable/elastic/errors.html
ROOT_CAUSE = re.compile(
    r"Root Cause \(first observed failure\):.*?"
    r"^\s+rank\s*:\s*(\d+).*?^\s+exitcode\s*:\s*(-\d+)",
    re.DOTALL | re.MULTILINE,
)


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


def explain_failure(run_dir: RunDir, logs: Path, code: int) -> int:
    """Print the first failure of any rank with its log; return the exit code that fits it."""
    failures = [json.loads(path.read_text()) for path in logs.glob("failure-rank-*.json")]
    if failures:
        first = min(failures, key=lambda failure: float(failure["time"]))
        return _print_failure(first, logs)
    killed = ROOT_CAUSE.search((logs / "launch.log").read_text(errors="replace"))
    if killed:
        rank, signal_number = int(killed[1]), -int(killed[2])
        _say(
            f"rank {rank} was killed by signal {signal_number}"
            f"{' (out of memory, or kill -9)' if signal_number == 9 else ''}."
            f" Log: {logs / f'rank-{rank}.log'}. The same command resumes the run."
        )
        return EXIT_FAILED
    _say(
        f"accelerate launch ended with exit code {code} and no rank said why."
        f" Log: {logs / 'launch.log'}. The same command resumes the run."
    )
    return EXIT_FAILED


def _print_failure(failure: dict[str, Any], logs: Path) -> int:
    rank = failure["rank"]
    if failure["expected"]:
        _say(failure["message"])
    else:
        head = f"rank {rank} on {failure['host']} failed first: {failure['kind']}"
        _say(f"{head}: {failure['message']}")
    _say(f"Log: {logs / f'rank-{rank}.log'}")
    return int(failure["exit_code"])


def _say(message: str) -> None:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)
