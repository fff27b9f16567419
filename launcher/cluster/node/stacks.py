"""Reads the stacks that Python's faulthandler dumps: who waits for others, and who doesn't."""

from __future__ import annotations

import re

HEADER = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+.*$", re.MULTILINE)
FRAME = re.compile(
    r'^  File "(?P<file>[^"]*)", line (?:\d+|\?\?\?) in (?P<function>.+)$', re.MULTILINE
)
WAITING_FILES = ("/torch/distributed/", "/deepspeed/comm/")
WAITING_FUNCTIONS = ("wait", "synchronize", "barrier")
INNERMOST = 3
"""Frames looked at for a function that waits: DeepSpeed wraps some of them twice."""


def waits_for_others(dump: str) -> bool:
    """Return whether a rank's own threads (not those beside them) are inside a collective."""
    for block in HEADER.split(dump)[1:]:
        frames = [(found["file"], found["function"]) for found in FRAME.finditer(block)]
        if not frames or frames[-1][1] == "_bootstrap":  # started by threading: not training
            continue
        if any(part in file for file, _ in frames for part in WAITING_FILES):
            return True
        if any(function in WAITING_FUNCTIONS for _, function in frames[:INNERMOST]):
            return True
    return False
