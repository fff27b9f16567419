"""Asks a running launch to stop cleanly, from anywhere that sees its run folder."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.files import replace_text
from launcher.lock import holder_of
from launcher.run_dir import RunDir


def ask_to_stop(run_folder: Path) -> str:
    """Write the stop request of a run; return what happens now, for people.

    Raises:
        InputError: it is no run folder, or nothing runs in it.
    """
    run_dir = RunDir(run_folder)
    if not run_dir.resolved.is_file():
        raise InputError(
            Problem(str(run_folder), "", "is not a run folder.", "Name one, such as runs/NAME.")
        )
    holder = holder_of(run_dir.lock)
    if holder is None:
        raise InputError(
            Problem(
                str(run_folder),
                "",
                "nothing is running here.",
                "`launcher run` starts or resumes it.",
            )
        )
    request = {"host": socket.gethostname(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    replace_text(run_dir.stop_request, json.dumps(request))
    return (
        f"asked: {run_dir.root.name} ({holder.host}, pid {holder.pid}) saves at its next step"
        " boundary and exits 75"
    )
