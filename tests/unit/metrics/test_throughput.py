"""Rates are of the window and of training alone; memory is this process's own peak."""

from __future__ import annotations

import mmap

import pytest
import torch

from launcher.metrics.throughput import Throughput, peak_memory_bytes, peak_resident_bytes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_of_the_window() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    for tokens in (100, 300):
        clock.now += 2.0
        throughput.step(tokens)
    rates = throughput.lap()
    assert (rates.tokens_per_second, rates.step_seconds) == (100.0, 2.0)
    clock.now += 1.0
    throughput.step(50)
    rates = throughput.lap()
    assert (rates.tokens_per_second, rates.step_seconds) == (50.0, 1.0)


def test_an_evaluation_does_not_slow_training_down() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    clock.now += 2.0
    throughput.step(100)
    with throughput.paused():
        clock.now += 60.0
    assert throughput.lap().tokens_per_second == 50.0


def test_a_pause_that_fails_is_still_left_out() -> None:
    clock = Clock()
    throughput = Throughput(clock)

    def fail() -> None:
        with throughput.paused():
            clock.now += 60.0
            raise ValueError("evaluation")

    with pytest.raises(ValueError, match="evaluation"):
        fail()
    clock.now += 2.0
    throughput.step(100)
    assert throughput.lap().tokens_per_second == 50.0


def test_an_empty_window_has_no_rate() -> None:
    rates = Throughput(Clock()).lap()
    assert (rates.tokens_per_second, rates.step_seconds) == (0.0, 0.0)


def test_the_peak_grows_with_memory_and_stays() -> None:
    size = 64 * 2**20
    before = peak_memory_bytes(torch.device("cpu"))
    with mmap.mmap(-1, size) as block:
        block.write(b"\1" * size)
        during = peak_resident_bytes()
    assert during >= before
    # The peak may have been higher before; what was held at once is in it in any case.
    assert during >= size
    assert peak_resident_bytes() >= during
