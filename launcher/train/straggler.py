"""Finds the rank that all others wait for: each measures its own work, and rank 0 compares.

Time between steps tells nothing, since every rank waits for the slowest at each collective.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from launcher.train.local_work import LocalWork
from launcher.train.progress import Progress
from launcher.train.session import Session
from launcher.train.step import StepResult
from launcher.train.step_observer import StepObserver
from launcher.world import host_name

SLOW = 2.5
"""Times the median of the other ranks, from where a rank is slow."""
CHECKS_IN_A_ROW = 3
"""One bad moment (another process, a page fault) is no straggler."""
QUIET_CHECKS = 50
"""Checks after a warning in which the same rank is not warned of again."""
CHECK_SECONDS = 5.0
"""Between two checks."""
MATTERS = 0.02
"""Share of a step that the extra work of a slow rank takes at least; below, nobody notices."""

WARM_UP_STEPS = 2  # they compile, allocate and tune
_NAME_BYTES = 64  # of a host


@dataclass(frozen=True)
class Pace:
    """Means of one rank since the last check."""

    seconds: float
    """Own work in a step."""
    num_tokens: float
    """In a step."""
    step_seconds: float


@dataclass(frozen=True)
class Slowness:
    """How much slower one rank is than the others."""

    ratio: float
    seconds: float
    median_of_others: float


def slowness(paces: Sequence[Pace], rank: int) -> Slowness:
    """Compare one rank with the median of the others.

    A rank is slow only where it is so both as a whole and per token: longer rows take longer, and
    very short ones take long for their length.
    """
    pace, others = paces[rank], [pace for i, pace in enumerate(paces) if i != rank]
    median = statistics.median(other.seconds for other in others)
    per_token = statistics.median(_per_token(other) for other in others)
    ratio = min(_over(pace.seconds, median), _over(_per_token(pace), per_token))
    matters = pace.seconds - median >= MATTERS * pace.step_seconds
    return Slowness(ratio if matters else 0.0, pace.seconds, median)


def _per_token(pace: Pace) -> float:
    return pace.seconds / max(1.0, pace.num_tokens)


def _over(value: float, reference: float) -> float:
    return value / reference if reference > 0 else 0.0


class Streaks:
    """Which ranks have been slow for long enough to say so, and not too often."""

    def __init__(self, world_size: int) -> None:
        self._slow_checks = [0] * world_size
        self._quiet_until = [0] * world_size
        self._checks = 0

    def update(self, paces: Sequence[Pace]) -> dict[int, Slowness]:
        """Take in one check; return the ranks to warn of."""
        self._checks += 1
        found = {}
        for rank in range(len(paces)):
            slow = slowness(paces, rank)
            self._slow_checks[rank] = self._slow_checks[rank] + 1 if slow.ratio > SLOW else 0
            due = self._checks >= self._quiet_until[rank]
            if self._slow_checks[rank] >= CHECKS_IN_A_ROW and due:
                self._quiet_until[rank] = self._checks + QUIET_CHECKS
                found[rank] = slow
        return found


class Stragglers(StepObserver):
    """Shares the paces of all ranks every few seconds and warns of the slow ones.

    The step of the next check follows from what was shared at the last, so that the ranks agree on
    it without another word.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_alone = session.world.world_size == 1
        if self._is_alone:
            return
        self._hosts = gather_hosts(session.world.world_size, session.device)
        self._streaks = Streaks(session.world.world_size)
        self._works: list[LocalWork] = []
        self._next_check: int | None = None
        self._warm = False

    def after_step(self, session: Session, progress: Progress, result: StepResult) -> None:
        """Take in what this rank did in a step; now and then compare it with the others."""
        if self._is_alone:
            return
        step = progress.step
        self._works.append(result.work)
        if self._next_check is None:
            self._next_check = self._logged_step(step + WARM_UP_STEPS)
        if step >= self._next_check:
            self._check(step)

    def _check(self, step: int) -> None:
        paces = self._share()
        longest = max(pace.step_seconds for pace in paces)
        self._next_check = self._logged_step(step + max(1, math.ceil(CHECK_SECONDS / longest)))
        if not self._warm:  # the first steps only tell how long a step takes
            self._warm = True
            return
        for rank, slow in self._streaks.update(paces).items():
            self._session.recorder.event(
                "warning",
                step=step,
                message=f"rank {rank} on {self._hosts[rank]} is slow, and all wait for it: its own"
                f" work in a step takes {slow.seconds:.3g} s, {slow.ratio:.1f} times the median of"
                f" the other ranks ({slow.median_of_others:.3g} s). Look at that machine: clocks"
                " and temperature of its GPU, other processes, its disk.",
                rank=rank,
                host=self._hosts[rank],
                ratio=slow.ratio,
                local_seconds=slow.seconds,
                median_seconds=slow.median_of_others,
            )

    def _logged_step(self, step: int) -> int:
        """Return the first step from `step` on that is recorded."""
        every = self._session.recipe.logging.every_steps
        return -(-step // every) * every

    def _share(self) -> list[Pace]:
        count = len(self._works)
        own = (
            sum(work.seconds for work in self._works) / count,
            sum(work.num_tokens for work in self._works) / count,
            sum(work.step_seconds for work in self._works) / count,
        )
        self._works = []
        mine = torch.tensor(own, dtype=torch.float64, device=self._session.device)
        paces = [torch.empty_like(mine) for _ in range(self._session.world.world_size)]
        dist.all_gather(paces, mine)
        return [Pace(*pace.tolist()) for pace in paces]


def gather_hosts(world_size: int, device: torch.device) -> list[str]:
    """Return the name of each rank's machine, on every rank."""
    name = host_name().encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
    mine = torch.tensor(list(name), dtype=torch.uint8, device=device)
    names = [torch.empty_like(mine) for _ in range(world_size)]
    dist.all_gather(names, mine)
    return [bytes(name.tolist()).rstrip(b"\0").decode(errors="replace") for name in names]
