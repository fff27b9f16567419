"""The probe: what the live model answers on fixed rows, to hold an export against it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from launcher.train.session import Session

NUM_ROWS = 2
MAX_TOKENS = 32


@torch.no_grad()
def probe(session: Session) -> dict[str, Tensor]:
    """Run the model on the first rows of the data in eval mode; return inputs and logits.

    `input_ids` and `attention_mask` (2, length) int64 and `logits` float32, on the CPU. All ranks
    call this, since a ZeRO-3 forward pass is a collective.
    """
    cache = session.prepared.validation or session.prepared.train
    ids = np.arange(NUM_ROWS) % len(cache)
    batch = session.batch(cache, ids)
    inputs = {
        name: batch[name][:, :MAX_TOKENS].contiguous() for name in ("input_ids", "attention_mask")
    }
    session.engine.eval()
    logits = session.engine(**inputs).logits.float()
    return {
        name: tensor.cpu().contiguous() for name, tensor in {**inputs, "logits": logits}.items()
    }
