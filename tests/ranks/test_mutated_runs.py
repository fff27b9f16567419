"""A run whose folder was altered is read, exported and resumed, or refused by name."""

from __future__ import annotations

import os
import random
from pathlib import Path

import torch

from tests.support.mutated_runs import Mutated

COUNT = int(os.environ.get("MUTATIONS", "5"))


def test_a_few_by_a_fixed_seed(tmp_path: Path) -> None:
    """More: `make fuzz`."""
    torch.set_num_threads(1)
    mutated = Mutated(tmp_path)
    bad = [mutated.try_one(random.Random(number)) for number in range(COUNT)]
    assert list(filter(None, bad)) == []
