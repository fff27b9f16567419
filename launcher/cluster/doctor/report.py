"""`launcher doctor`: looks at everything, prints a line for each, and says whether it will do."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from launcher.cluster.doctor.check import Check
from launcher.cluster.doctor.hardware import hardware
from launcher.cluster.doctor.slurm import slurm
from launcher.cluster.doctor.software import software
from launcher.cluster.follow.text import columns
from launcher.cluster.node.devices import visible_gpus
from launcher.errors import EXIT_FAILED


def examine() -> list[Check]:
    """Return everything that was looked at."""
    return [*software(has_gpus=visible_gpus() > 0), *hardware(), *slurm()]


def lines(checks: Sequence[Check]) -> list[str]:
    """Return a line for each, with its cure, and the verdict over all."""
    rows = [(c.verdict, c.name, f"{c.found}. {c.cure}" if c.cure else c.found) for c in checks]
    return [*columns(rows), "", f"{socket.gethostname()}: {_verdict(checks)}"]


def exit_code(checks: Sequence[Check]) -> int:
    """Return 0 unless something is missing that every run needs."""
    return EXIT_FAILED if _missing(checks) else 0


def _verdict(checks: Sequence[Check]) -> str:
    missing = _missing(checks)
    if missing:
        return f"not ready, {len(missing)} missing"
    warnings = sum(check.verdict == "warning" for check in checks)
    if not warnings:
        return "ready"
    return f"ready, {warnings} warning{'s' if warnings > 1 else ''}"


def _missing(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.verdict == "missing"]
