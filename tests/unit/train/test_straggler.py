"""Which rank is called slow: one that really is, for a while; not one with longer rows."""

from __future__ import annotations

import pytest

from launcher.train.straggler import (
    CHECKS_IN_A_ROW,
    QUIET_CHECKS,
    Pace,
    Streaks,
    slowness,
)


def pace(seconds: float, num_tokens: float = 4096) -> Pace:
    return Pace(seconds, num_tokens, step_seconds=1.0)


SLOW_RANK = [pace(0.2), pace(1.0), pace(0.22), pace(0.21)]
EVEN = [pace(0.2), pace(0.25), pace(0.22), pace(0.4)]


def test_a_slow_rank_is_compared_with_the_median_of_the_others() -> None:
    found = slowness(SLOW_RANK, 1)
    assert found.ratio == pytest.approx(1.0 / 0.21)
    assert (found.seconds, found.median_of_others) == (1.0, 0.21)
    assert all(slowness(SLOW_RANK, rank).ratio < 1.1 for rank in (0, 2, 3))


def test_one_of_two_ranks() -> None:
    assert slowness([pace(0.2), pace(1.0)], 1).ratio == pytest.approx(5.0)
    assert slowness([pace(0.2), pace(1.0)], 0).ratio < 1


@pytest.mark.parametrize(
    ("slow", "why"),
    [
        (pace(1.0, num_tokens=5 * 4096), "its rows are longer"),
        (pace(0.2, num_tokens=64), "its rows are very short"),
        (pace(0.01), "it is fast"),
    ],
)
def test_rows_of_another_length_make_nobody_slow(slow: Pace, why: str) -> None:
    assert slowness([pace(0.2), slow, pace(0.2)], 1).ratio < 1.1, why


def test_work_that_hardly_counts_in_a_step_makes_nobody_slow() -> None:
    assert slowness([pace(0.001), pace(0.01)], 1).ratio == 0.0


def test_a_warning_needs_several_checks_in_a_row_and_is_not_repeated() -> None:
    streaks = Streaks(4)
    warned = [sorted(streaks.update(SLOW_RANK)) for _ in range(CHECKS_IN_A_ROW + QUIET_CHECKS)]
    assert warned[:CHECKS_IN_A_ROW] == [[], [], [1]]
    assert [check for check, ranks in enumerate(warned, start=1) if ranks] == [
        CHECKS_IN_A_ROW,
        CHECKS_IN_A_ROW + QUIET_CHECKS,
    ]


def test_a_bad_moment_is_no_straggler() -> None:
    streaks = Streaks(4)
    for paces in [SLOW_RANK, SLOW_RANK, EVEN] * 5:
        assert not streaks.update(paces)


def test_two_slow_ranks_are_both_named() -> None:
    streaks = Streaks(5)
    paces = [pace(0.2), pace(1.0), pace(0.2), pace(0.2), pace(1.2)]
    found = [streaks.update(paces) for _ in range(CHECKS_IN_A_ROW)][-1]
    assert sorted(found) == [1, 4]
