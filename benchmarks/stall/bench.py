"""One case of the comparison: its workers, its slow disk and its rounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.stall.measure import Save, over_ranks
from benchmarks.stall.throttle import SlowDisk
from benchmarks.stall.workers import REPOSITORY, Workers

RECIPE = "recipes/quickstart.yaml"
NUM_RANKS = 2
COUNTED = 0.99
"""Share of a checkpoint's bytes that must have gone through the slow disk; the rest is slack."""
TOO_FAST = 1.02
"""Times the disk's rate at which nobody may have written."""


@dataclass
class Method:
    """A way to save, and what it took."""

    name: str
    group: str
    command: str
    saves: list[Save] = field(default_factory=list)
    floors: list[Save] = field(default_factory=list)
    """The copy that each save is paired with."""
    first: Save | None = None
    """The first save of all, whose memory and files are new; not among the others."""


@dataclass(frozen=True)
class Case:
    """What was measured of one kind of training."""

    title: str
    described: list[dict[str, int]]
    """Parameters, tensors and bytes of each rank."""
    methods: list[Method]


def methods() -> list[Method]:
    """Return who is compared; this launcher comes first."""
    return [
        Method("this launcher, ZeRO-2 on 2 ranks", "ranks", "launcher"),
        Method("DCP `async_save`, same ranks and tensors", "ranks", "dcp"),
        Method("the same, one stager kept for all saves", "ranks", "dcp-kept"),
        Method("Trainer, 1 process, no DeepSpeed", "trainer", "save"),
        Method("Trainer, DeepSpeed ZeRO-2 on 2 ranks", "trainer-zero2", "save"),
    ]


class Bench:
    """Processes that train one model in their several ways, and the disk that they share."""

    def __init__(self, overrides: list[str], rate: float, scratch: Path) -> None:
        folder = scratch / "disk"
        folder.mkdir()
        self._rate = rate
        self._disk = SlowDisk(folder, scratch, rate)
        settings = [
            "run.name=save-stall",
            f"run.dir={folder / 'runs'}",
            f"data.cache_dir={scratch / 'cache'}",
            "train.num_epochs=1000",
            *overrides,
        ]
        prepare = [sys.executable, "-m", "launcher.train.prepare", RECIPE]
        sets = [word for setting in settings for word in ("--set", setting)]
        subprocess.run([*prepare, *sets], cwd=REPOSITORY, check=True, capture_output=True)

        def start(module: str, name: str, count: int, **variables: str) -> Workers:
            return Workers(
                f"benchmarks.stall.{module}",
                [RECIPE, str(folder / name), *settings],
                count=count,
                scratch=scratch / name,
                environment={**self._disk.environment, **variables},
            )

        self._groups = {
            "ranks": start("rank", "ranks", NUM_RANKS),
            "trainer": start("trainer", "trainer", 1),
            "trainer-zero2": start(
                "trainer", "trainer-zero2", NUM_RANKS, ACCELERATE_USE_DEEPSPEED="true"
            ),
        }

    def wait_until_ready(self) -> list[Any]:
        """Wait for all workers; return what the ranks say of themselves."""
        described = {name: group.wait_until_ready() for name, group in self._groups.items()}
        return described["ranks"]

    def stop(self) -> None:
        """End all workers."""
        for group in self._groups.values():
            group.stop()

    def floor(self) -> Save:
        """Copy the tensors within memory, on all ranks at once."""
        return over_ranks(self._groups["ranks"].ask("copy"))

    def save(self, method: Method) -> Save:
        """Save once; refuse a result that the disk did not slow down."""
        self._disk.take()
        saved = over_ranks(self._groups[method.group].ask(method.command))
        saved = replace(saved, throttled_bytes=self._disk.take())
        if saved.throttled_bytes < COUNTED * saved.num_bytes:
            raise SystemExit(
                f"{method.name}: {saved.num_bytes} bytes lie on the disk, and only"
                f" {saved.throttled_bytes} were throttled: it writes by other means."
            )
        if saved.bytes_per_second > TOO_FAST * self._rate:
            raise SystemExit(f"{method.name} wrote {saved.bytes_per_second:.0f} bytes a second.")
        return saved

    def round(self, compared: Sequence[Method], number: int) -> None:
        """Measure one pair of floor and save a method; odd rounds backwards, against drift."""
        forward = number % 2 == 0
        for method in compared if forward else reversed(compared):
            before = self.floor() if forward else None
            saved = self.save(method)
            method.floors.append(before or self.floor())
            method.saves.append(saved)


def run_case(title: str, overrides: list[str], rate: float, num_rounds: int, scratch: Path) -> Case:
    """Start the workers, measure all rounds and end the workers."""
    compared = methods()
    bench = Bench(overrides, rate, scratch)
    try:
        described = bench.wait_until_ready()
        bench.floor()
        for method in compared:
            method.first = bench.save(method)
        for number in range(num_rounds):
            bench.round(compared, number)
            print(f"round {number + 1} of {num_rounds}", file=sys.stderr)
    finally:
        bench.stop()
    return Case(title, described, compared)
