"""Test distribution over pytest-xdist's workers: a file that shares fixtures stays on one."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling

ALONE = ("tests/unit/", "tests/faults/")
"""Tests that share nothing worth keeping: a free worker takes the next one."""


class Scheduling(LoadScopeScheduling):
    """One file of tests that start processes goes to one worker: its runs are shared."""

    def __init__(self, config: Any, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # in the order in which they were collected

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ALONE) else nodeid.partition("::")[0]
