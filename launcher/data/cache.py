"""Tokenised rows on disk, memory-mapped: written by one process, read by every rank."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from launcher.data.rows import Encoded
from launcher.files.read import sha256_of
from launcher.files.write import create_binary, make_folder

FILES = ("input_ids.bin", "loss_mask.bin", "offsets.npy", "label.npy", "num_targets.npy")


@dataclass(frozen=True)
class CachedRow:
    """One row, as views into the mapped files."""

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    label: int


class TokenCache:
    """The rows of one split. Reading costs no memory beyond the pages that are touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets: NDArray[np.int64] = np.load(folder / "offsets.npy")
        self._labels: NDArray[np.int64] = np.load(folder / "label.npy")
        self.num_targets: NDArray[np.int64] = np.load(folder / "num_targets.npy")
        """(n,) predictions that each row's loss is summed over."""
        self._ids = np.memmap(folder / "input_ids.bin", dtype=np.int32, mode="r")
        self._masks = np.memmap(folder / "loss_mask.bin", dtype=np.bool_, mode="r")

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> CachedRow:
        # -1 means "filler row" in batches of ids; it must not quietly become the last row
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a cache of {len(self)}")
        part = slice(self._offsets[index], self._offsets[index + 1])
        return CachedRow(self._ids[part], self._masks[part], int(self._labels[index]))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each row."""
        return np.diff(self._offsets)

    @cached_property
    def shortest(self) -> int:
        """Index of a row with the fewest tokens: what filler rows are copied from."""
        return int(np.argmin(self.lengths))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max())

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) class indices; -1 where the task has none."""
        return self._labels


class CacheWriter:
    """Appends rows to the files of one split; tokens go to disk at once, counts at the end."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self.folder = folder
        self._ids = create_binary(folder / "input_ids.bin")
        self._masks = create_binary(folder / "loss_mask.bin")
        self._offsets = array("q", [0])
        self._labels = array("q")
        self._num_targets = array("q")
        self._digests = array("Q")

    def __len__(self) -> int:
        return len(self._labels)

    def append(self, row: Encoded, digest: int) -> None:
        """Add one row; `digest` is `content_digest` of the row before it was truncated."""
        self._ids.write(np.asarray(row.input_ids, dtype=np.int32).tobytes())
        self._masks.write(np.asarray(row.loss_mask, dtype=np.bool_).tobytes())
        self._offsets.append(self._offsets[-1] + len(row.input_ids))
        self._labels.append(row.label)
        self._num_targets.append(row.num_targets)
        self._digests.append(digest)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(n,) content digests, to find rows that occur twice."""
        return np.array(self._digests, dtype=np.uint64)

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ids.close()
        self._masks.close()
        if error is None:
            for name, values in (
                ("offsets.npy", self._offsets),
                ("label.npy", self._labels),
                ("num_targets.npy", self._num_targets),
            ):
                np.save(self.folder / name, np.array(values, dtype=np.int64))


def tokens_digest(folder: Path) -> str:
    """SHA-256 of one split as it was written: equal where exactly the same is trained on."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(bytes.fromhex(sha256_of(folder / name)))
    return digest.hexdigest()


def content_digest(input_ids: list[int]) -> int:
    """64-bit digest of a row's tokens; labels and masks don't count: the same text is a leak."""
    data = np.asarray(input_ids, dtype=np.int32).tobytes()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
