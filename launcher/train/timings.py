"""What a stop takes here: the longest step and save seen lately, for whoever sets a time limit."""

from __future__ import annotations

import json
from collections import deque

from launcher.files.write import replace_text
from launcher.run_dir import RunDir
from launcher.train.heartbeat import MARGIN_SECONDS

REMEMBERED = 20
RESERVE_FACTOR = 1.5
"""A stop may arrive at the start of a step and needs that step and a save; and both vary."""


class Timings:
    """The longest of the last steps and saves, in seconds."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        self._saves: deque[float] = deque(maxlen=REMEMBERED)

    def step(self, seconds: float) -> None:
        """Note the time between two places where a stop can be heard."""
        self._steps.append(seconds)

    def save(self, seconds: float) -> None:
        """Note the time from the start of a save to its commit."""
        self._saves.append(seconds)

    @property
    def stop_seconds(self) -> float:
        """What a clean stop takes at most, by what was seen: a step and a save."""
        return max(self._steps, default=0.0) + max(self._saves, default=0.0)

    @property
    def reserve_seconds(self) -> float:
        """How long before a time limit a stop has to be asked for."""
        return RESERVE_FACTOR * self.stop_seconds + MARGIN_SECONDS

    def write(self, run_dir: RunDir) -> None:
        """Leave the figures where the next launch finds them."""
        figures = {
            "step_seconds": max(self._steps, default=0.0),
            "save_seconds": max(self._saves, default=0.0),
        }
        replace_text(run_dir.timings, json.dumps(figures))
