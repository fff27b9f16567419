"""Finds what a recipe's data paths mean: files, globs of them, a data set's folder or hub name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from launcher.data.digests import file_digest
from launcher.data.hub import load_split
from launcher.data.parquet import read_parquet
from launcher.data.rows import Part, Row
from launcher.data.text_files import read_csv, read_json, read_jsonl, read_lines
from launcher.errors import InputError, Problem
from launcher.files.read import opened, why_unreadable
from launcher.recipe.schema import Columns, Source

Read = Callable[[Path], Iterator[Row | Problem]]

_HUB_NAME = re.compile(r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$")


def readers(columns: Columns) -> dict[str, Read]:
    """Return the reader of each known file suffix; the first five may be gzipped too (`.gz`).

    JSONL holds one object per line, JSON one array of objects, CSV and TSV a line of column names
    first, a text file one row per non-empty line.
    """
    lines = partial(read_lines, column=columns.text)
    return {
        ".jsonl": read_jsonl,
        ".json": read_json,
        ".csv": partial(read_csv, delimiter=","),
        ".tsv": partial(read_csv, delimiter="\t"),
        ".txt": lines,
        ".parquet": read_parquet,
    }


def find_parts(
    sources: Sequence[Source], columns: Columns, key: str, cache_dir: Path
) -> list[Part]:
    """Return all parts in the recipe's order, files of a glob sorted by name.

    `key` is the recipe's key of `sources`, `cache_dir` where digests of files are remembered.
    Raises `InputError` with every path that can't be found or read.
    """
    parts: list[Part] = []
    problems: list[Problem] = []
    for i, source in enumerate(sources):
        for found in _find(source, columns, f"{key}[{i}].path", cache_dir):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                parts.append(found)
    if problems:
        raise InputError(problems)
    return parts


def _find(source: Source, columns: Columns, key: str, cache_dir: Path) -> Iterator[Part | Problem]:
    path = Path(source.path).expanduser()
    known = readers(columns)
    if path.is_file():
        yield _file(path, known, key, cache_dir)
    elif glob.has_magic(source.path):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (may be absolute)
        files = [Path(name) for name in names if not Path(name).is_dir()]
        for file in files:
            yield _file(file, known, key, cache_dir) if file.is_file() else _odd(file, key)
        if not files:
            message = f"the pattern matches no file; looked from {Path.cwd()}."
            yield Problem(source.path, key, message)
    elif path.is_dir() or (
        _HUB_NAME.match(source.path) and _suffix(path) not in known and not os.path.lexists(path)
    ):
        yield load_split(source, key, cache_dir)
    elif os.path.lexists(path):
        yield _odd(path, key)
    else:
        yield Problem(source.path, key, f"no such file; looked from {Path.cwd()}.")


def _odd(path: Path, key: str) -> Problem:
    """Say what lies there in the place of a file."""
    try:
        with opened(path):
            reason = "is no file"
    except OSError as error:
        reason = why_unreadable(error)
    return Problem(str(path), key, f"{reason}.", "Remove it, or name the files one by one.")


def _file(path: Path, known: dict[str, Read], key: str, cache_dir: Path) -> Part | Problem:
    read = known.get(_suffix(path))
    if read is None:
        cure = f"Known: {', '.join(known)}."
        return Problem(
            str(path), key, f"a file name that ends so says no format: {path.name}.", cure
        )
    return Part(str(path), partial(read, path), partial(file_digest, path, cache_dir))


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix
