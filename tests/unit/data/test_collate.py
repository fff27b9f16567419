"""A batch holds the rows, padding that counts nothing, and fillers that count nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launcher.data.cache import CacheWriter, TokenCache
from launcher.data.collate import collate
from launcher.data.rows import Encoded

EOS = 7
ROWS = [
    Encoded([1, 2, 3, EOS], [False, False, True, True]),
    Encoded([4, EOS], [True, True]),
    Encoded(list(range(10, 21)), [True] * 11),
]


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    with CacheWriter(tmp_path / "train") as writer:
        for row in ROWS:
            writer.append(row, 0)
    return TokenCache(tmp_path / "train")


def test_padding_is_dynamic_and_never_beyond_the_longest_row(cache: TokenCache) -> None:
    assert collate(cache, np.array([1, 0]), pad_token_id=0)["input_ids"].shape == (2, 8)
    assert collate(cache, np.array([1, 2]), pad_token_id=0)["input_ids"].shape == (2, 11)
    tight = collate(cache, np.array([1, 0]), pad_token_id=0, multiple_of=1)
    assert tight["input_ids"].tolist() == [[4, EOS, 0, 0], [1, 2, 3, EOS]]
    assert tight["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_where_pad_is_eos_the_real_eos_keeps_its_loss(cache: TokenCache) -> None:
    batch = collate(cache, np.array([1, 0]), pad_token_id=EOS, multiple_of=1)
    assert batch["input_ids"].tolist() == [[4, EOS, EOS, EOS], [1, 2, 3, EOS]]
    assert batch["loss_mask"].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_filler_is_a_short_real_row_without_loss(cache: TokenCache) -> None:
    batch = collate(cache, np.array([0, -1]), pad_token_id=0, multiple_of=1)
    assert batch["row_mask"].tolist() == [True, False]
    assert batch["input_ids"][1].tolist() == [4, EOS, 0, 0]
    assert batch["attention_mask"][1].tolist() == [1, 1, 0, 0]
    assert not batch["loss_mask"][1].any()


def test_types(cache: TokenCache) -> None:
    batch = collate(cache, np.array([0, -1]), pad_token_id=0)
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in batch.items()}
    assert types == {
        "input_ids": "int64",
        "attention_mask": "int64",
        "loss_mask": "bool",
        "label": "int64",
        "row_mask": "bool",
    }
