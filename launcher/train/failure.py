"""A rank's last words: what ended it, written where whoever started it can read it."""

from __future__ import annotations

import json
import re
import time
import traceback
from typing import Any

from launcher.errors import EXIT_FAILED, InputError, LauncherError, NonFiniteError, Stopped
from launcher.files.write import replace_text
from launcher.run_dir import LogDir
from launcher.train.heartbeat import Place
from launcher.world import World, host_name

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.I)
TIMEOUT = re.compile(r"timed out|timeout", re.I)
LOST_PEER = re.compile(
    r"gloo|nccl|TCPStore|connection (was )?(closed|reset|refused)|broken pipe", re.I
)
"""What a rank says when another one is gone: a consequence, never the cause."""


def describe_failure(
    error: BaseException, world: World, place: Place | None = None
) -> dict[str, Any]:
    """Return what ended a rank: where it was, the error, its class, exit code and traceback."""
    place = place or Place()
    return {
        "time": time.time(),
        "rank": world.rank,
        "host": host_name(),
        "phase": place.phase,
        "step": place.step,
        "micro_step": place.micro_step,
        "class": classify(error),
        "kind": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "exit_code": error.exit_code if isinstance(error, LauncherError) else EXIT_FAILED,
        "expected": isinstance(error, LauncherError),
        "traceback": "".join(traceback.format_exception(error)),
    }


def classify(error: BaseException) -> str:
    """Return the class of an error: whether it is a cause, and which cure it has."""
    message = str(error)
    if isinstance(error, InputError):
        return "input"
    if isinstance(error, NonFiniteError):
        return "non-finite"
    if isinstance(error, LauncherError):
        return "code"
    # torch.cuda.OutOfMemoryError is known by its name: torch may not even be loaded yet.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    if OUT_OF_MEMORY.search(message):
        return "out of memory"
    if isinstance(error, ConnectionError) or LOST_PEER.search(message):
        return "timeout" if TIMEOUT.search(message) else "lost peer"
    return "code"


def write_failure(failure: dict[str, Any], logs: LogDir) -> None:
    """Write it as `failure-rank-N.json`, complete or not at all."""
    replace_text(logs.failure(failure["rank"]), json.dumps(failure, indent=1))


def write_stopped(stopped: Stopped, logs: LogDir) -> None:
    """Write that the launch was stopped cleanly: at which step, and why."""
    replace_text(logs.stopped, json.dumps({"step": stopped.step, "reason": stopped.reason}))
