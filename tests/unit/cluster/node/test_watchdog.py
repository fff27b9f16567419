"""Which rank is late: the surest sign decides."""

from __future__ import annotations

import pytest

from launcher.cluster.node.ranks import Rank
from launcher.cluster.node.stacks import waits_for_others
from launcher.cluster.node.watchdog import SILENT_SECONDS, Seen, choose_late, is_late
from launcher.files.read import Record
from launcher.process import Process

NOW = 100.0
WAITING = """Thread 0x00007f (most recent call first):
  File "/env/torch/distributed/distributed_c10d.py", line 3001 in all_reduce
"""
BUSY = """Thread 0x00007f (most recent call first):
  File "/env/launcher/data/cache.py", line 60 in rows
"""


def rank(number: int, step: int, *, silent: float = 0.5, idle: float = 50.0) -> Rank:
    """Return a rank whose last heartbeat was seen `silent` seconds ago, at a place then `idle`."""
    beat = Record(step=step, micro_step=0, written=idle, progressed=silent, phase="train")
    return Rank(number, Process(number + 1, 1), 0.0, beat, beat_seen=NOW - silent)


RUNNING = {0: "S", 1: "S", 2: "S"}


@pytest.mark.parametrize(
    ("silent_1", "state_1", "dumps", "steps", "late", "why"),
    [
        (0.5, "T", [WAITING, BUSY, BUSY], [5, 5, 4], [1], "stopped"),
        (9.0, "D", [WAITING, "", BUSY], [5, 5, 4], [1], "no sign of life"),
        (0.5, "S", [WAITING, BUSY, WAITING], [5, 5, 4], [1], "not where the others wait"),
        (0.5, "S", [WAITING, WAITING, WAITING], [5, 5, 4], [2], "least far"),
        (0.5, "S", [BUSY, BUSY, BUSY], [5, 4, 5], [1], "least far"),
        (0.5, "S", [BUSY, BUSY, BUSY], [5, 5, 5], [0, 1, 2], "no rank has come further"),
    ],
)
def test_signs_in_order(
    silent_1: float, state_1: str, dumps: list[str], steps: list[int], late: list[int], why: str
) -> None:
    states = {**RUNNING, 1: state_1}
    ranks = [
        Seen(
            rank=n,
            host="node",
            pid=n + 1,
            phase="train",
            step=step,
            micro_step=0,
            seconds=50.0,
            silent=n == 1 and silent_1 > SILENT_SECONDS,
            state=states[n],
            waiting=waits_for_others(dumps[n]),
            stacks=None,
        )
        for n, step in enumerate(steps)
    ]
    chosen, reason = choose_late(ranks)
    assert [found.rank for found in chosen] == late
    assert why in reason


def test_late_is_too_long_without_progress_or_life() -> None:
    assert is_late(rank(0, 5, idle=31.0), NOW, 30.0)
    assert is_late(rank(0, 5, idle=1.0, silent=31.0), NOW, 30.0)
    assert not is_late(rank(0, 5, idle=29.0), NOW, 30.0)


def test_a_rank_without_a_heartbeat_is_late_once_its_process_is_that_old() -> None:
    unheard = Rank(0, Process(1, 1), seen=NOW - 31.0)
    assert is_late(unheard, NOW, 30.0)
    assert not is_late(unheard, NOW - 2.0, 30.0)


def test_what_has_ended_is_not_late() -> None:
    ended = rank(0, 5, silent=90.0)
    ended.ended = True
    done = rank(0, 5, silent=90.0)
    done.beat["phase"] = "done"
    assert not is_late(ended, NOW, 30.0)
    assert not is_late(done, NOW, 30.0)
