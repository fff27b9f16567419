"""Measures what a rank does by itself, on the host's clock or by a GPU's events; never waits."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_PROBE_SIZE = {"cpu": 256, "cuda": 2048}  # of a square float32 matrix; about 1 ms a product
_PROBE_SHARE = {"cpu": 0.01, "cuda": 0.001}  # of the time; a CPU's timings are the noisier
_MOST_PROBES = 4  # after one step


@dataclass(frozen=True)
class LocalWork:
    """What one rank did in one step without waiting for any other."""

    seconds: float
    num_tokens: int
    """With padding: what the computation was spent on."""
    step_seconds: float
    """The whole step on the clock."""


class WorkTimer:
    """Times the parts of a step that are this rank's own."""

    def __init__(self, device: torch.device, *, times_forward: bool) -> None:
        self._is_cuda = device.type == "cuda"
        self._times_forward = times_forward
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0
        self._num_tokens = 0
        self._started = time.perf_counter()

    @contextmanager
    def collation(self) -> Iterator[None]:
        """Time the making of a batch on the host."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    @contextmanager
    def forward(self, num_tokens: int) -> Iterator[None]:
        """Time a forward pass; on a GPU by events, which nothing waits for."""
        self._num_tokens += num_tokens
        if not self._times_forward:
            yield
        elif self._is_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    def result(self) -> LocalWork:
        """Return the sums; to be called once the device is past the last forward pass."""
        on_device = sum(start.elapsed_time(end) for start, end in self._events) / 1000
        whole = time.perf_counter() - self._started
        return LocalWork(self._seconds + on_device, self._num_tokens, whole)


class Probe:
    """A fixed computation on this rank's device, often enough to know how fast the device is."""

    def __init__(self, device: torch.device) -> None:
        size = _PROBE_SIZE[device.type]
        self._is_cuda = device.type == "cuda"
        self._share = _PROBE_SHARE[device.type]
        self._matrix = torch.ones(size, size, device=device)
        self._product = torch.empty_like(self._matrix)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._timings: list[float] = []
        self._cost = 1e-3
        self._ended = time.perf_counter()
        for _ in range(3):
            torch.mm(self._matrix, self._matrix, out=self._product)

    def run_if_due(self) -> None:
        """Run it as often as its share of the time since the last run allows."""
        allowed = (time.perf_counter() - self._ended) * self._share / self._cost
        for _ in range(min(_MOST_PROBES, int(allowed))):
            self._run()
            self._ended = time.perf_counter()

    def _run(self) -> None:
        if self._is_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.mm(self._matrix, self._matrix, out=self._product)
            end.record()
            self._events.append((start, end))
            return
        began = time.perf_counter()
        torch.mm(self._matrix, self._matrix, out=self._product)
        self._timings.append(time.perf_counter() - began)

    def take(self) -> float:
        """Return the mean seconds of a run since the last call; NaN without any."""
        done = [(start, end) for start, end in self._events if end.query()]
        self._events = self._events[len(done) :]
        timings = self._timings + [start.elapsed_time(end) / 1000 for start, end in done]
        self._timings = []
        if not timings:
            return math.nan
        self._cost = max(1e-5, min(timings))  # the least: what it costs where nothing disturbs
        return statistics.fmean(timings)
