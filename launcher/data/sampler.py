"""Which samples make up which optimizer step: a pure function, the same for any geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

FILLER = -1
"""Stands in a micro-batch where no sample is left; costs a forward pass and counts nothing."""

CHUNK_WINDOWS = 50
"""Windows whose samples are sorted by length together: enough to find partners of equal length."""

MIN_CHUNKS = 4
"""Small data is cut into at least this many chunks, so that sorting leaves some chance in it."""

_HELD_OUT = 1  # keeps the stream that splits rows apart from those that order epochs


@dataclass(frozen=True)
class Window:
    """The samples of one optimizer step."""

    step: int
    """0-based."""
    epoch: int
    sample_ids: Ids
    """(global_batch_size,), fewer at the end of an epoch; neighbours are alike in length."""
    consumed_samples: int
    """Samples used up after this step, over all epochs."""


class Windows:
    """All windows of a run; `window(step)` depends on nothing but the arguments given here."""

    def __init__(
        self,
        lengths: Ids,
        global_batch_size: int,
        seed: int,
        shuffle: bool = True,
        length_grouping: bool = True,
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._size = global_batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._grouping = length_grouping
        self._memo: tuple[int, Ids] | None = None  # order of the epoch last asked for

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that use every sample once; the last may be short."""
        return -(-len(self._lengths) // self._size)

    def window(self, step: int) -> Window:
        """Return the samples of optimizer step `step` (0-based)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._memo is None or self._memo[0] != epoch:
            self._memo = (epoch, self._order(epoch))
        ids = self._memo[1][index * self._size : (index + 1) * self._size]
        consumed = epoch * len(self._lengths) + index * self._size + len(ids)
        return Window(step, epoch, ids.copy(), consumed)

    def _order(self, epoch: int) -> Ids:
        if not self._shuffle:
            return np.arange(len(self._lengths))
        stream = np.random.PCG64(np.random.SeedSequence([self._seed, epoch]))
        order = _permutation(stream, len(self._lengths))
        return self._grouped(order, stream) if self._grouping else order

    def _grouped(self, order: Ids, stream: np.random.PCG64) -> Ids:
        """Sort chunks of the shuffled samples by length, then shuffle the windows that result.

        The samples of the last, partial window are set aside first: they are a random choice too.
        """
        full = len(order) // self._size
        whole, rest = order[: full * self._size], order[full * self._size :]
        per_chunk = max(1, min(CHUNK_WINDOWS, full // MIN_CHUNKS)) * self._size
        chunks = [whole[i : i + per_chunk] for i in range(0, len(whole), per_chunk)]
        by_length = [self._sorted(chunk) for chunk in chunks]
        windows = np.concatenate([whole[:0], *by_length]).reshape(full, self._size)
        return np.concatenate([windows[_permutation(stream, full)].ravel(), self._sorted(rest)])

    def _sorted(self, ids: Ids) -> Ids:
        return ids[np.argsort(-self._lengths[ids], kind="stable")]


def _permutation(stream: np.random.PCG64, size: int) -> Ids:
    # numpy promises that a bit generator's raw stream never changes, but not so for
    # Generator.permutation (NEP 19): a resumed run must find its order under any numpy.
    return np.argsort(np.asarray(stream.random_raw(size), dtype=np.uint64), kind="stable")


def micro_batches(
    sample_ids: Ids,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    num_micro_batches: int | None = None,
) -> list[Ids]:
    """Deal a window's samples to one rank's micro-batches.

    Each has exactly `micro_batch_size` ids, `FILLER` where samples ran out; all ranks get equally
    many. The ranks' shares of one micro-step are neighbours in the window, so alike in length.
    `num_micro_batches` asks for more than needed (gradient accumulation of a short last window).
    """
    per_step = micro_batch_size * world_size
    needed = -(-len(sample_ids) // per_step)
    count = needed if num_micro_batches is None else num_micro_batches
    assert count >= needed, f"{len(sample_ids)} samples don't fit {count} x {per_step}"
    padded = np.full(count * per_step, FILLER, dtype=np.int64)
    padded[: len(sample_ids)] = sample_ids
    return list(padded.reshape(count, world_size, micro_batch_size)[:, rank])


def evaluation_batches(
    lengths: Ids, micro_batch_size: int, rank: int, world_size: int
) -> list[Ids]:
    """Deal all rows to one rank's batches, longest first: each row once over all ranks."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return micro_batches(order, micro_batch_size, rank, world_size)


def held_out(num_rows: int, fraction: float, seed: int) -> Ids:
    """Choose the rows that validate instead of train: at least one, never all, in file order."""
    stream = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_HELD_OUT,)))
    count = min(max(1, round(num_rows * fraction)), num_rows - 1)
    return np.sort(_permutation(stream, num_rows)[: max(0, count)])
