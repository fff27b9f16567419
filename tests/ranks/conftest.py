"""Data sets that tests of several ranks share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.training import write_jsonl


@pytest.fixture(scope="session")
def small_topics(topics_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five topics of the conversations, 90 rows to train on, 37 to measure on."""
    folder = tmp_path_factory.mktemp("topics")
    for name, count in (("train", 90), ("validation", 37)):
        lines = (topics_dir / f"{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        chosen = sorted({row["label"] for row in rows})[:5]
        kept = [row for row in rows if row["label"] in chosen][:count]
        assert len(kept) == count
        write_jsonl(folder / f"{name}.jsonl", kept)
    return folder
