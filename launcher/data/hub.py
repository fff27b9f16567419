"""Data sets of the hub, or in a folder that `datasets` understands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from launcher.data.digests import file_digest
from launcher.data.rows import Part, Row
from launcher.errors import Problem
from launcher.recipe.schema import Source


def load_split(source: Source, key: str, cache_dir: Path) -> Part | Problem:
    """Fetch one split, or say why there is none. Code in a data set's folder is never run."""
    import datasets  # here, because it takes a second and most runs read plain files

    try:
        split = datasets.load_dataset(source.path, source.subset, split=source.split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Problem(
            source.path,
            key,
            f"no such file (looked from {Path.cwd()}), and as a data set: {lines[0]}",
        )
    name = f"{source.path}[{source.split}]"
    return Part(name, partial(_rows, split, name), partial(_digest, split, source, cache_dir))


def _rows(split: Any, name: str) -> Iterator[Row]:
    classes = {
        column: feature.names
        for column, feature in split.features.items()
        if hasattr(feature, "names")  # a ClassLabel: integers in the rows, names beside them
    }
    for i, values in enumerate(split, start=1):
        for column, names in classes.items():
            value = values[column]
            if isinstance(value, int) and 0 <= value < len(names):
                values[column] = names[value]  # -1 marks a row without label
        yield Row(f"{name}:row {i}", values)


def _digest(split: Any, source: Source, cache_dir: Path) -> str:
    # The split may be a slice of its files (train[:10%]), hence its name goes in too.
    parts = [source.split, str(source.subset), str(len(split))]
    parts += [file_digest(Path(file["filename"]), cache_dir) for file in split.cache_files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
