"""A rank that waits for others is told from one that is waited for by its own stack."""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading

import pytest

from launcher.cluster.node.stacks import waits_for_others

HEARTBEAT = """Thread 0x00007fc7bbfff6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/env/launcher/train/heartbeat.py", line 84 in _beat
  File "/usr/lib/python3.11/threading.py", line 1045 in _bootstrap_inner
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

"""
MAIN = """Current thread 0x00007fc7c1f2bb80 (most recent call first):
{frames}
  File "/env/launcher/train/step.py", line 70 in train_step
  File "/env/launcher/train/__main__.py", line 31 in main
  File "<frozen runpy>", line 198 in _run_module_as_main
"""
ALL_REDUCE = """  File "/env/torch/distributed/distributed_c10d.py", line 3001 in all_reduce
  File "/env/torch/distributed/c10d_logger.py", line 83 in wrapper"""
GATHER = """  File "/env/deepspeed/utils/nvtx.py", line 20 in wrapped_fn
  File "/env/deepspeed/runtime/zero/partition_parameters.py", line 99 in wait
  File "/env/deepspeed/runtime/zero/partitioned_param_coordinator.py", line 391 in fetch"""
READING = '  File "/env/launcher/data/cache.py", line 60 in rows'


@pytest.mark.parametrize(
    ("frames", "waits"), [(ALL_REDUCE, True), (GATHER, True), (READING, False)]
)
def test_what_the_main_thread_is_in(frames: str, waits: bool) -> None:
    assert waits_for_others(HEARTBEAT + MAIN.format(frames=frames)) is waits


def test_a_thread_of_the_backward_pass_counts() -> None:
    """On a GPU, hooks that reduce gradients run in a thread that threading didn't start."""
    autograd = f"Thread 0x00007fc7aaaaa6c0 (most recent call first):\n{ALL_REDUCE}\n\n"
    assert waits_for_others(autograd + MAIN.format(frames=READING))


def test_no_dump_is_no_wait() -> None:
    assert not waits_for_others("")


def test_a_real_dump() -> None:
    """This thread waits for nobody; the one beside it waits, and is no training."""
    ended = threading.Event()
    beside = threading.Thread(target=ended.wait)
    beside.start()
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        ended.set()
        beside.join()
        dump = os.pread(file.fileno(), 1 << 20, 0).decode()
    assert "in wait" in dump
    assert "test_a_real_dump" in dump
    assert not waits_for_others(dump)
