"""Counts training rows where that takes milliseconds: JSON Lines files on this machine."""

from __future__ import annotations

import glob
from pathlib import Path

from launcher.files.read import opened
from launcher.recipe.schema import DataSection, Source

MAX_BYTES = 64 << 20
"""Above this, counting would be felt; `launcher prepare` knows then."""

_FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz")


def training_rows(data: DataSection) -> int | None:
    """Return the number of rows that are trained on, before any is dropped; None if unknown."""
    files = [file for source in data.train for file in source_files(source)]
    countable = all(file.suffix == ".jsonl" for file in files)
    if not countable or any(not source_files(source) for source in data.train):
        return None
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        return None
    num_rows = sum(_lines(file) for file in files)
    if data.validation_fraction is None or num_rows < 2:
        return num_rows
    return num_rows - min(max(1, round(num_rows * data.validation_fraction)), num_rows - 1)


def source_files(source: Source) -> list[Path]:
    """Return the files that a source names; none for a hub data set or where there are none yet."""
    names = sorted(glob.glob(source.path, recursive=True))  # noqa: PTH207  (absolute patterns too)
    return [Path(name) for name in names if Path(name).is_file()]


def missing_files(data: DataSection) -> dict[str, str]:
    """Return recipe key -> path of each source that can only be files and has none."""
    return {
        f"data.{name}.{index}.path": source.path
        for name, sources in (("train", data.train), ("validation", data.validation))
        for index, source in enumerate(sources)
        if source.path.endswith(_FILE_SUFFIXES) and not source_files(source)
    }


def _lines(file: Path) -> int:
    with opened(file) as lines:
        return sum(1 for line in lines if not line.isspace())
