"""How fast the run is and how much memory it takes, measured where it is cheap: on the clock."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from launcher.files.read import read_text

_PROCESS_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Rates:
    """Speed over a window of steps."""

    tokens_per_second: float
    """Tokens of all ranks together."""
    step_seconds: float
    """Mean time of one optimizer step."""


class Throughput:
    """Counts steps and tokens between two records; pauses (evaluation, checkpoint) don't count."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._reset()

    def step(self, tokens: int) -> None:
        """Count one optimizer step that used `tokens` tokens on all ranks together."""
        self._steps += 1
        self._tokens += tokens

    def lap(self) -> Rates:
        """Return the rates since the last lap (or the beginning) and start the next window."""
        seconds = self._clock() - self._started - self._paused_seconds
        rates = Rates(
            tokens_per_second=self._tokens / seconds if seconds > 0 else 0.0,
            step_seconds=seconds / self._steps if self._steps else 0.0,
        )
        self._reset()
        return rates

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        began = self._clock()
        try:
            yield
        finally:
            self._paused_seconds += self._clock() - began

    def _reset(self) -> None:
        self._started = self._clock()
        self._paused_seconds = 0.0
        self._steps = 0
        self._tokens = 0


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that was in use so far: of a GPU, tensors; of a CPU rank, resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the highest resident size of this process."""
    # Not ru_maxrss on Linux: it survives exec and so may be that of the process that started us.
    if _PROCESS_STATUS.exists():
        for line in read_text(_PROCESS_STATUS).splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere
