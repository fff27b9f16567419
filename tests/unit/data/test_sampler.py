"""The order of samples is a pure function of (seed, epoch, position), whatever carries the run."""

from __future__ import annotations

import numpy as np
import pytest

from launcher.data.sampler import (
    FILLER,
    Windows,
    evaluation_batches,
    held_out,
    micro_batches,
)

GRID = [
    # rows, global batch size, shuffle, grouping
    (1, 1, True, True),
    (7, 8, True, True),
    (64, 8, True, True),
    (103, 8, True, True),
    (103, 8, True, False),
    (103, 8, False, True),
    (5000, 16, True, True),
    (5003, 16, True, True),
]


def lengths_of(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 500, rows)


def windows_of(rows: int, size: int, shuffle: bool, grouping: bool, seed: int = 3) -> Windows:
    return Windows(lengths_of(rows), size, seed, shuffle, grouping)


@pytest.mark.parametrize(("rows", "size", "shuffle", "grouping"), GRID)
def test_each_epoch_has_every_sample_once(
    rows: int, size: int, shuffle: bool, grouping: bool
) -> None:
    windows = windows_of(rows, size, shuffle, grouping)
    steps = windows.steps_per_epoch
    assert steps == (rows + size - 1) // size
    for epoch in range(3):
        found = [windows.window(epoch * steps + i) for i in range(steps)]
        assert {window.epoch for window in found} == {epoch}
        assert sorted(np.concatenate([w.sample_ids for w in found]).tolist()) == list(range(rows))
        assert [len(window.sample_ids) for window in found[:-1]] == [size] * (steps - 1)
        consumed = epoch * rows + np.cumsum([len(window.sample_ids) for window in found])
        assert [window.consumed_samples for window in found] == consumed.tolist()


@pytest.mark.parametrize(("rows", "size", "shuffle", "grouping"), GRID)
def test_random_access_equals_going_through(
    rows: int, size: int, shuffle: bool, grouping: bool
) -> None:
    through = windows_of(rows, size, shuffle, grouping)
    sequence = [through.window(step).sample_ids.tolist() for step in range(40)]
    jumping = windows_of(rows, size, shuffle, grouping)
    for step in np.random.default_rng(1).permutation(40).tolist():
        np.random.seed(step)  # the global state must not matter
        assert jumping.window(step).sample_ids.tolist() == sequence[step]


def test_a_window_can_be_changed_by_its_reader() -> None:
    windows = windows_of(64, 8, True, True)
    first = windows.window(0).sample_ids.tolist()
    windows.window(0).sample_ids[:] = 0
    assert windows.window(0).sample_ids.tolist() == first


def test_epochs_and_seeds_differ() -> None:
    windows, other = windows_of(103, 8, True, True), windows_of(103, 8, True, True, seed=4)
    epochs = [tuple(windows.window(13 * epoch).sample_ids) for epoch in range(5)]
    assert len({*epochs, tuple(other.window(0).sample_ids)}) == 6


def test_without_shuffling_the_order_is_the_files() -> None:
    windows = windows_of(20, 8, False, True)
    for epoch in range(2):
        ids = np.concatenate([windows.window(3 * epoch + i).sample_ids for i in range(3)])
        assert ids.tolist() == list(range(20))


def test_the_order_is_the_same_under_any_numpy() -> None:
    # golden: a resumed run must find the order that it was started with
    windows = Windows(np.array([5, 1, 4, 2, 3, 9, 7, 8]), 3, seed=42)
    assert [windows.window(step).sample_ids.tolist() for step in range(6)] == GOLDEN


GOLDEN = [[4, 3, 1], [7, 6, 0], [5, 2], [5, 2, 1], [6, 0, 3], [7, 4]]


def padded_tokens(windows: Windows, lengths: np.ndarray, micro: int, ranks: int) -> int:
    total = 0
    for step in range(windows.steps_per_epoch):
        ids = windows.window(step).sample_ids
        for rank in range(ranks):
            for batch in micro_batches(ids, micro, rank, ranks):
                real = batch[batch != FILLER]
                total += micro * int(lengths[real].max()) if len(real) else 0
    return total


@pytest.mark.parametrize(("micro", "ranks"), [(4, 1), (2, 2), (16, 1)])
def test_grouping_by_length_saves_most_of_the_padding(micro: int, ranks: int) -> None:
    lengths = lengths_of(5003)
    grouped = padded_tokens(windows_of(5003, 16, True, True), lengths, micro, ranks)
    shuffled = padded_tokens(windows_of(5003, 16, True, False), lengths, micro, ranks)
    real = int(lengths.sum())
    assert grouped < 1.05 * real < shuffled


def test_grouping_leaves_chance_in_the_windows() -> None:
    """Sorting alone would always put the same neighbours together."""
    windows = windows_of(640, 8, True, True)
    steps = windows.steps_per_epoch
    seen = {tuple(sorted(windows.window(step).sample_ids)) for step in range(10 * steps)}
    assert len(seen) > 9.9 * steps
    means = [lengths_of(640)[windows.window(step).sample_ids].mean() for step in range(steps)]
    falling = np.mean(np.diff(means) < 0)
    assert 0.3 < falling < 0.7, "long windows must not always come before short ones"


def test_the_last_window_is_no_choice_by_length() -> None:
    lengths = lengths_of(103)
    windows = windows_of(103, 8, True, True)
    last = [lengths[windows.window(13 * epoch + 12).sample_ids].mean() for epoch in range(200)]
    spread = lengths.std() / np.sqrt(7 * 200)
    assert abs(np.mean(last) - lengths.mean()) < 4 * spread


@pytest.mark.parametrize("num_ids", [1, 3, 7, 8, 24])
@pytest.mark.parametrize("micro", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_dealing_gives_each_sample_to_one_rank_and_all_ranks_equal_counts(
    num_ids: int, micro: int, ranks: int
) -> None:
    ids = np.random.default_rng(num_ids).permutation(1000)[:num_ids]
    shares = [micro_batches(ids, micro, rank, ranks) for rank in range(ranks)]
    assert {len(share) for share in shares} == {-(-num_ids // (micro * ranks))}
    assert all(batch.shape == (micro,) for share in shares for batch in share)
    dealt = np.concatenate([batch for share in shares for batch in share])
    assert sorted(dealt[dealt != FILLER].tolist()) == sorted(ids.tolist())


def test_more_micro_batches_than_needed_are_filled() -> None:
    batches = micro_batches(np.array([4, 5, 6]), 2, rank=1, world_size=2, num_micro_batches=2)
    assert [batch.tolist() for batch in batches] == [[6, FILLER], [FILLER, FILLER]]


def test_ranks_of_one_micro_step_are_alike_in_length() -> None:
    lengths = lengths_of(5000)
    windows = windows_of(5000, 16, True, True)
    worst = []
    for step in range(windows.steps_per_epoch):
        ids = windows.window(step).sample_ids
        shares = [micro_batches(ids, 2, rank, 2) for rank in range(2)]
        for ours, theirs in zip(*shares, strict=True):
            worst.append(abs(int(lengths[ours].max()) - int(lengths[theirs].max())))
    assert np.mean(worst) < 10  # of up to 500


@pytest.mark.parametrize(("micro", "ranks"), [(1, 1), (3, 1), (16, 2), (3, 4)])
def test_evaluation_reads_each_row_once(micro: int, ranks: int) -> None:
    lengths = lengths_of(101)
    shares = [evaluation_batches(lengths, micro, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    dealt = np.concatenate([batch for share in shares for batch in share])
    assert sorted(dealt[dealt != FILLER].tolist()) == list(range(101))


def test_held_out_rows_are_a_fraction_chosen_by_the_seed() -> None:
    chosen = held_out(1000, 0.1, seed=1)
    assert len(set(chosen.tolist())) == 100
    assert chosen.tolist() == sorted(held_out(1000, 0.1, seed=1).tolist())
    assert chosen.tolist() != held_out(1000, 0.1, seed=2).tolist()
    assert len(held_out(10, 0.001, seed=1)) == 1
    assert len(held_out(3, 0.99, seed=1)) == 2
    assert len(held_out(1, 0.5, seed=1)) == 0
