"""Runs the commands that README and docs tell to type."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

DEADLINE_SECONDS = 300.0


def run(command: Sequence[str], folder: Path) -> str:
    """Run in `folder`; return the output, which must come with exit code 0."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-6000:]}"
    return done.stdout


def run_line(line: str, folder: Path) -> str:
    """Run a command as it is written."""
    return run(["bash", "-euo", "pipefail", "-c", line], folder)
