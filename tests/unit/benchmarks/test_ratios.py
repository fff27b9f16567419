"""Medians of paired ratios: the pairs stay together, and the interval shows how they spread."""

from __future__ import annotations

import pytest

from benchmarks.stall.measure import Save, over_ranks
from benchmarks.stall.ratios import Ratio, paired_ratio


def test_a_ratio_that_every_pair_shows_is_certain_however_the_machine_drifts() -> None:
    floors = [1.0, 5.0, 2.0, 9.0, 3.0, 1.5, 7.0]

    ratio = paired_ratio([3 * floor for floor in floors], floors)

    assert ratio == Ratio(3.0, 3.0, 3.0)


def test_one_wild_pair_moves_neither_the_median_nor_the_interval_far() -> None:
    ratio = paired_ratio([2.0, 2.1, 1.9, 2.0, 2.05, 1.95, 2.0, 2.0, 400.0], [1.0] * 9)

    assert ratio.median == 2.0
    assert 1.9 <= ratio.low <= 2.0 <= ratio.high <= 2.1


def test_pairs_that_disagree_give_a_wide_interval() -> None:
    ratio = paired_ratio([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], [1.0] * 7)

    assert ratio.median == 8.0
    assert ratio.low <= 4.0
    assert ratio.high >= 16.0


def test_values_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1.0, 2.0], [1.0])


def test_ranks_wait_for_the_slowest_and_add_up_what_they_spend() -> None:
    fast = Save(1.0, 0.5, 100, 7.0, 0.1, {"copy": 0.9})
    slow = Save(2.0, 0.25, 50, 6.0, 0.2, {"copy": 0.4, "probe": 1.2})

    both = over_ranks([fast, slow])

    assert both == Save(2.0, 0.75, 150, 7.0, pytest.approx(0.3), {"copy": 0.4, "probe": 1.2})


def test_the_rate_counts_the_wait_and_what_goes_on_behind_it() -> None:
    assert Save(0.5, 0.1, num_bytes=100, background_seconds=1.5).bytes_per_second == 50.0
