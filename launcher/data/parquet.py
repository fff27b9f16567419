"""Rows of a Parquet file, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.data.rows import BrokenPart, Row
from launcher.errors import Problem


def read_parquet(path: Path) -> Iterator[Row | Problem]:
    """Yield the rows of a file; a broken file gives one problem and ends there."""
    import pyarrow  # here, because it brings threads and few runs read Parquet
    from pyarrow import parquet

    count = 0
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
                yield BrokenPart(str(path), "", f"column names occur twice: {twice}.")
                return
            for batch in file.iter_batches(batch_size=1000):
                for values in batch.to_pylist():
                    count += 1
                    yield Row(f"{path}:row {count}", values)
    # Of values that Python has none for, too: dates after the year 9999, text that is no UTF-8.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        where = f"after row {count}: " if count else ""
        yield BrokenPart(str(path), "", f"not a readable Parquet file: {where}{error}")
