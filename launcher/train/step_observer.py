"""Hooks before and after each optimizer step: for the checks of a step, and for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.data.sampler import Window

if TYPE_CHECKING:
    from launcher.train.progress import Progress
    from launcher.train.session import Session
    from launcher.train.step import StepResult


class StepObserver:
    """Sees each step of its rank; all ranks have the same observers, so these may be collective.

    An observer may raise: the run then ends with its error. Either method may be left out.
    """

    def before_step(self, session: Session, window: Window) -> None:
        """Look at the rank before the first micro-batch of `window`."""

    def after_step(self, session: Session, progress: Progress, result: StepResult) -> None:
        """Look at what the step gave, before it is recorded, evaluated or saved."""
