"""Everything that reads a run folder without changing it, at once."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from launcher.cluster.follow.logs import show_logs
from launcher.cluster.follow.read import find_run
from launcher.cluster.follow.runs import list_runs
from launcher.cluster.follow.status import show_status
from launcher.errors import LauncherError
from launcher.metrics.report import build_report
from launcher.run_dir import RunDir


def read_all(run: Path) -> list[str]:
    """Show status, logs, the list of runs and the report; return what was refused."""
    refused = []
    with Path(os.devnull).open("w") as nowhere:
        console = Console(file=nowhere)
        readers = (
            lambda: show_status(run, watch=False, console=console),
            lambda: show_logs(find_run(run), str, rank=None, attempt=None, follow=False),
            lambda: list_runs(run.parent),
            lambda: build_report(RunDir(run)),
        )
        for reader in readers:
            try:
                reader()
            except LauncherError as error:
                refused.append(str(error))
    return refused
