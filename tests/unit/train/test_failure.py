"""A rank's last words say what ended it, where, and which kind of trouble it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.errors import InputError, NonFiniteError, Problem, Stopped, TrainingError
from launcher.run_dir import RunDir
from launcher.train.failure import classify, describe_failure, write_failure, write_stopped
from launcher.train.heartbeat import Place
from launcher.world import World


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


# Messages as torch 2.13 gives them.
GLOO_CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
GLOO_TIMEOUT = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78]"
    " Timed out waiting 5000ms for recv operation to complete"
)
CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory:"
    " you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("messages"), "code"),
        (TrainingError("no gradient"), "code"),
        (InputError(Problem("recipe.yaml:3", "model.path", "no such folder.")), "input"),
        (NonFiniteError("step 7: the loss is nan"), "non-finite"),
        (MemoryError(), "out of memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError(CPU_MEMORY), "out of memory"),
        (RuntimeError(GLOO_CLOSED), "lost peer"),
        (ConnectionResetError(104, "Connection reset by peer"), "lost peer"),
        (RuntimeError(GLOO_TIMEOUT), "timeout"),
        (ValueError("the timeout of the reader must be positive"), "code"),
    ],
)
def test_classes(error: Exception, expected: str) -> None:
    assert classify(error) == expected


def test_real_allocator() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert classify(caught.value) == "out of memory"


def test_failure_file(tmp_path: Path) -> None:
    logs = RunDir(tmp_path).logs(1)
    logs.root.mkdir(parents=True)
    place = Place("train", step=41, micro_step=3)
    write_failure(describe_failure(KeyError("messages"), World(rank=2), place), logs)
    (path,) = logs.failures
    found = json.loads(path.read_text())
    assert (found["rank"], found["phase"], found["step"], found["micro_step"]) == (
        2,
        "train",
        41,
        3,
    )
    assert (found["class"], found["expected"], found["exit_code"]) == ("code", False, 1)


def test_a_clean_stop_is_no_failure(tmp_path: Path) -> None:
    logs = RunDir(tmp_path).logs(1)
    logs.root.mkdir(parents=True)
    stopped = Stopped(12, "launcher stop")
    write_stopped(stopped, logs)
    assert json.loads(logs.stopped.read_text()) == {"step": 12, "reason": "launcher stop"}
    assert logs.failures == []
    assert stopped.exit_code == 75
    assert str(stopped).startswith("stopped at step 12 (launcher stop)")
    assert "before the first step" in str(Stopped(0, "Ctrl-C"))
