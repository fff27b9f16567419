"""Where in its run a rank is: every place it passes, by the heartbeat, to act at one of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.run_dir import MANIFEST, RunDir
from launcher.train.heartbeat import Heartbeat
from tests.faults.attempt import kill_self

COMMIT_SECONDS = 30.0


def at_place(number: int, act: Callable[[], None]) -> None:
    """Call `act` when this process passes its place of that number, counted from its first step
    on: micro-steps, evaluation batches and saves."""
    plain, passed = Heartbeat.at, [0]

    def at(self: Heartbeat, phase: str | None = None, **place: Any) -> None:
        plain(self, phase, **place)
        training = passed[0] > 0 or (phase == "train" and place.get("step") is not None)
        if training:
            passed[0] += 1
            if passed[0] == number:
                act()

    Heartbeat.at = at  # type: ignore[method-assign]


def note_places(path: Path) -> None:
    """Write the places that this process passes into a file, one a line."""
    plain = Heartbeat.at
    noted: list[str] = []

    def at(self: Heartbeat, phase: str | None = None, **place: Any) -> None:
        plain(self, phase, **place)
        if noted or (phase == "train" and place.get("step") is not None):
            noted.append(json.dumps([phase, place.get("step"), place.get("micro_step")]))
            path.write_text("\n".join(noted))

    Heartbeat.at = at  # type: ignore[method-assign]


def at_step(step: int, act: Callable[[], None]) -> None:
    """Call `act` at the first micro-step of a 1-based step."""
    plain = Heartbeat.at

    def at(self: Heartbeat, phase: str | None = None, **place: Any) -> None:
        plain(self, phase, **place)
        if phase == "train" and place.get("step") == step and place.get("micro_step") == 0:
            act()

    Heartbeat.at = at  # type: ignore[method-assign]


def die_after_save(run_dir: RunDir, step: int) -> None:
    """Kill this process in the step behind a save, once that is committed."""

    def die() -> None:
        deadline = time.monotonic() + COMMIT_SECONDS
        while not (run_dir.checkpoint(step) / MANIFEST).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # the links and the pruning that follow the commit
        kill_self()

    at_step(step + 1, die)
