"""Times what a rank does by itself, on the host's clock or by a GPU's events; never waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

MOST_LAYERS = 16
"""Layers timed at ZeRO-3; more would only cost."""
_MATTERING_SHARE = 0.9


@dataclass(frozen=True)
class LocalWork:
    """What one rank did in one step without waiting for any other."""

    seconds: float
    """Making batches, and the forward passes; at ZeRO-3 these are projected from some layers."""
    num_tokens: int
    """With padding: what the computation was spent on."""
    step_seconds: float
    """The whole step on the clock."""


class Stopwatch:
    """Adds up the time of a device between pairs of marks, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._began: Any = None
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def start(self) -> None:
        """Begin a stretch."""
        self._began = self._mark()

    def stop(self) -> None:
        """End it."""
        if self._is_cuda:
            self._events.append((self._began, self._mark()))
        else:
            self._seconds += self._mark() - self._began

    def take(self) -> float:
        """Return the sum and begin anew; to be called once the device is past the last stretch."""
        on_device = sum(start.elapsed_time(end) for start, end in self._events) / 1000
        seconds: float = self._seconds + on_device
        self._events, self._seconds = [], 0.0
        return seconds

    def _mark(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class WorkTimer:
    """Times the parts of each training step that are this rank's own.

    A forward pass is, below ZeRO-3. There it gathers weights, and so waits for all ranks, before
    each layer: what is timed instead is some layers between their gathering and their end.
    """

    def __init__(self, module: nn.Module, device: torch.device, zero_stage: int) -> None:
        self._host, self._device = Stopwatch(torch.device("cpu")), Stopwatch(device)
        self._layers = sampled_layers(module) if zero_stage == 3 else []
        self._share = 1.0
        if self._layers:
            self._share = _size(self._layers) / _size(layers_of(module))
        for layer in self._layers:
            # DeepSpeed's own hooks, which gather and let go, come before and after these.
            layer.register_forward_pre_hook(self._enter)
            layer.register_forward_hook(self._leave, prepend=True)
        self._times_whole = zero_stage < 3
        self._is_on = False
        self._num_tokens = 0
        self._started = 0.0

    def start(self) -> None:
        """Begin a step."""
        self._is_on, self._num_tokens, self._started = True, 0, time.perf_counter()

    def take(self) -> LocalWork:
        """End the step; to be called once the device is past the last forward pass."""
        self._is_on = False
        seconds = self._host.take() + self._device.take() / self._share
        return LocalWork(seconds, self._num_tokens, time.perf_counter() - self._started)

    @contextmanager
    def collation(self) -> Iterator[None]:
        """Time the making of a batch on the host."""
        self._host.start()
        yield
        self._host.stop()

    @contextmanager
    def forward(self, num_tokens: int) -> Iterator[None]:
        """Time a forward pass."""
        self._num_tokens += num_tokens
        if self._times_whole:
            self._device.start()
        yield
        if self._times_whole:
            self._device.stop()

    def _enter(self, layer: nn.Module, inputs: Any) -> None:
        if self._is_on:
            self._device.start()

    def _leave(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        if self._is_on:
            self._device.stop()


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Return the innermost modules that multiply by a matrix: where a forward pass takes its time.

    They call no other module, so that nothing is gathered while one runs.
    """
    return [
        layer
        for layer in module.modules()
        if not isinstance(layer, nn.Embedding)
        and not next(layer.children(), None)
        and any(len(_shape(p)) > 1 for p in layer.parameters())
    ]


def sampled_layers(module: nn.Module) -> list[nn.Module]:
    """Return some of those that matter by their size, spread evenly over the model."""
    layers = layers_of(module)
    left, chosen = _MATTERING_SHARE * _size(layers), set[nn.Module]()
    for layer in sorted(layers, key=lambda layer: _size([layer]), reverse=True):
        if left > 0:  # adapters are many, and next to nothing of the work
            left -= _size([layer])
            chosen.add(layer)
    mattering = [layer for layer in layers if layer in chosen]
    return mattering[:: max(1, -(-len(mattering) // MOST_LAYERS))]


def _shape(parameter: nn.Parameter) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)  # of all shards together
    return shape


def _size(layers: list[nn.Module]) -> int:
    return sum(_shape(p).numel() for layer in layers for p in layer.parameters())
