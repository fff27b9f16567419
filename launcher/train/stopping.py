"""The ranks agree on a stop: one flag each, one decision, at the same place in all of them."""

from __future__ import annotations

from launcher.train.agree import maximum_over_ranks
from launcher.train.saver import Saver
from launcher.train.session import Session
from launcher.train.stop import StopReason

REASONS = list(StopReason)


class StopAgreed(Exception):
    """All ranks have agreed to stop here; leads from wherever they are to the save."""

    def __init__(self, reason: StopReason) -> None:
        self.reason = reason
        super().__init__(reason.text)


def agree_to_stop(session: Session, saver: Saver | None = None) -> None:
    """Raise StopAgreed on all ranks if any was asked to stop; one small all-reduce.

    With `saver` the same exchange settles the save that is under way.
    """
    reason = session.watch.stop.reason
    code = 0.0 if reason is None else 1.0 + REASONS.index(reason)
    agreed, save_state = maximum_over_ranks([code, saver.state if saver else 0.0], session.device)
    if saver is not None:
        saver.settle(save_state)
    if agreed:
        raise StopAgreed(REASONS[int(agreed) - 1])
