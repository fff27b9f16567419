"""A rank's last words: what ended it, written where whoever started it can read it."""

from __future__ import annotations

import json
import socket
import time
import traceback
from typing import Any

from launcher.errors import EXIT_FAILED, LauncherError
from launcher.run_dir import LogDir
from launcher.world import World


def describe_failure(error: BaseException, world: World) -> dict[str, Any]:
    """Return time, rank, host, kind, message, exit code and traceback of an error."""
    expected = isinstance(error, LauncherError)
    return {
        "time": time.time(),
        "rank": world.rank,
        "host": socket.gethostname(),
        "kind": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "exit_code": error.exit_code if isinstance(error, LauncherError) else EXIT_FAILED,
        "expected": expected,
        "traceback": "".join(traceback.format_exception(error)),
    }


def write_failure(failure: dict[str, Any], logs: LogDir) -> None:
    """Write it as `failure-rank-N.json`, complete or not at all."""
    path = logs.failure(failure["rank"])
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(failure, indent=1))
    temporary.replace(path)
