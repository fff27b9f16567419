"""Rows as the tensors of one micro-batch, padded to the longest of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from launcher.data.cache import TokenCache
from launcher.data.sampler import FILLER, Ids


def collate(
    cache: TokenCache, ids: Ids, pad_token_id: int, multiple_of: int = 8
) -> dict[str, Tensor]:
    """Build a batch as `launcher.tasks.interface.Batch` describes it; padding is on the right.

    The length is rounded up to `multiple_of` (tensor cores like multiples of 8), but never beyond
    the longest row there is: that one may be as long as the model has positions. A filler row is a
    copy of a short real row, because a row of nothing but padding gives NaN in some attentions.
    """
    rows = [cache[cache.shortest if i == FILLER else int(i)] for i in ids]
    longest = max(len(row.input_ids) for row in rows)
    length = min(-(-longest // multiple_of) * multiple_of, cache.longest)

    input_ids = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), length), dtype=np.int64)
    loss_mask = np.zeros((len(rows), length), dtype=np.bool_)
    row_mask = np.asarray(ids) != FILLER
    for i, row in enumerate(rows):
        size = len(row.input_ids)
        input_ids[i, :size] = row.input_ids
        attention_mask[i, :size] = 1
        # the mask says what is a target, never the ids: where pad is eos, a real eos stays one
        loss_mask[i, :size] = row.loss_mask & row_mask[i]
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "loss_mask": torch.from_numpy(loss_mask),
        "label": torch.tensor([row.label for row in rows]),
        "row_mask": torch.from_numpy(row_mask),
    }
