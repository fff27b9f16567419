"""A slow disk for all processes that are given it, below Python, torch and everybody's libraries.

No kernel feature does this for everyone who wants to run the benchmark: a control group's limit
needs root, and its first version lets writes into the page cache go. So a small library is put
between programs and libc (LD_PRELOAD), which counts bytes and makes their writers wait.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("throttle.c")
STATE = struct.Struct("2q")
"""When the disk is free again, and the bytes that went through it: see throttle.c."""


class SlowDisk:
    """Everything below `folder`, as those processes see it that get `environment`."""

    def __init__(self, folder: Path, scratch: Path, bytes_per_second: float) -> None:
        library = scratch / "throttle.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("the writes are throttled by a C library: install a C compiler (cc).")
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True
        )
        state = scratch / "throttle.state"
        state.write_bytes(bytes(STATE.size))
        with state.open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), STATE.size)
        self.environment = {
            "LD_PRELOAD": str(library),
            "THROTTLE_STATE": str(state),
            "THROTTLE_FOLDER": str(folder.resolve()),
            "THROTTLE_BYTES_PER_SECOND": str(bytes_per_second),
        }

    def take(self) -> int:
        """Return the bytes that went through since the last call; while nobody writes."""
        _, num_bytes = STATE.unpack(self._state[:])
        self._state[:] = bytes(STATE.size)
        return int(num_bytes)
