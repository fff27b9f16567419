"""Rows of JSONL, JSON, CSV and plain text files; what can't be read is named by line and byte."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from launcher.data.rows import BrokenPart, Row
from launcher.errors import Problem
from launcher.files.read import opened, why_unreadable

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"version https://git-lfs": "a pointer of git-lfs (run `git lfs pull`)",
    codecs.BOM_UTF16_LE: "UTF-16 text (convert it to UTF-8)",
    codecs.BOM_UTF16_BE: "UTF-16 text (convert it to UTF-8)",
}

Line = tuple[int, str]
"""Number, from 1, and text without its end."""


class RepeatedKeyError(ValueError):
    """An object of JSON has a key twice."""


def read_jsonl(path: Path) -> Iterator[Row | Problem]:
    """Yield one row per line; blank lines are skipped."""
    for line in _lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        number, text = line
        if not text.strip():
            continue
        place = f"{path}:{number}"
        try:
            value = _parsed(text)
        except ValueError as error:
            yield Problem(place, "", f"{error}.")
        else:
            yield _object(place, value) if _is_text(value, text) else _no_text(place)


def read_json(path: Path) -> Iterator[Row | Problem]:
    """Yield the objects of one array; a file of one object per line is read as JSONL."""
    lines = list(_lines(path))
    problems = [line for line in lines if isinstance(line, Problem)]
    texts = [line[1] for line in lines if not isinstance(line, Problem)]
    if problems:
        yield from (BrokenPart(problem.place, "", problem.message) for problem in problems)
        return
    first = next((text.strip() for text in texts if text.strip()), "")
    if not first.startswith("["):
        yield from read_jsonl(path)
        return
    try:
        values = _parsed("\n".join(texts))
    except ValueError as error:
        line = getattr(error.__cause__, "lineno", 1)
        yield BrokenPart(f"{path}:{line}", "", f"{error}.")
        return
    for number, value in enumerate(values, start=1):
        place = f"{path}:row {number}"
        yield _object(place, value) if _is_text(value) else _no_text(place)


def read_csv(path: Path, delimiter: str) -> Iterator[Row | Problem]:
    """Yield one row per record; the first line names the columns. All values are strings."""
    csv.field_size_limit(sys.maxsize)  # the default refuses documents beyond 128 KiB
    broken: list[Problem] = []
    reader = csv.reader(_texts(path, broken), delimiter=delimiter, strict=True)
    names: list[str] = []
    line = 0
    try:
        for fields in reader:
            place, line = f"{path}:{line + 1}", reader.line_num
            if not names:
                names = fields
                if len(set(names)) < len(names):
                    twice = f"column names occur twice: {', '.join(names)}."
                    yield BrokenPart(place, "", twice)
                    return
            elif len(fields) == len(names):
                yield Row(place, dict(zip(names, fields, strict=True)))
            elif fields:
                seen, needed = len(fields), len(names)
                yield Problem(place, "", f"{seen} fields, but the first line names {needed}.")
    except csv.Error as error:
        yield BrokenPart(f"{path}:{reader.line_num}", "", f"not CSV: {error}.")
    # A line may be the middle of a row, so what can't be decoded ends the file.
    yield from (BrokenPart(line.place, "", line.message, line.cure) for line in broken)


def read_lines(path: Path, column: str) -> Iterator[Row | Problem]:
    """Yield one row per non-empty line, in `column`."""
    for line in _lines(path):
        if isinstance(line, Problem):
            yield line
        elif line[1].strip():
            yield Row(f"{path}:{line[0]}", {column: line[1]})


def _parsed(text: str) -> Any:
    """Return the value that JSON text is; raise ValueError, whose words are for the user."""
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    except RepeatedKeyError:
        raise
    except ValueError as error:
        raise ValueError("a number of thousands of digits") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs: JSON lets a key occur twice, and nobody knows what for."""
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RepeatedKeyError(f"the key {repeated!r} occurs twice in one object")
    return found


def _object(place: str, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return Row(place, value)
    return Problem(place, "", f"a row must be an object, not a {type(value).__name__}.")


def _is_text(value: Any, source: str = "\\ud") -> bool:
    """Tell whether every string is one: JSON can name half a character (a lone surrogate).

    `source` is what `value` was read from: without such an escape there is nothing to look for.
    """
    if "\\ud" not in source and "\\uD" not in source:
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_text(place: str) -> Problem:
    return Problem(place, "", "not text: half a surrogate pair (\\ud800 to \\udfff) stands alone.")


def _texts(path: Path, broken: list[Problem]) -> Iterator[str]:
    """Yield lines with their ends, up to the first that can't be decoded."""
    for line in _lines(path):
        if isinstance(line, Problem):
            broken.append(line)
            return
        yield line[1] + "\n"


def _lines(path: Path) -> Iterator[Line | Problem]:
    """Yield decoded lines; a problem takes the place of a line that is not UTF-8."""
    wrong = _wrong_type(path)
    if wrong is not None:
        yield wrong
        return
    offset = number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                text = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                yield _decoded(f"{path}:{number}", number, text, offset + len(raw) - len(text))
                offset += len(raw)
    except (OSError, EOFError, zlib.error) as error:
        message = f"can't be read beyond line {number} (byte {offset}): {error}"
        yield BrokenPart(f"{path}:{number + 1}", "", message)


def _decoded(place: str, number: int, raw: bytes, offset: int) -> Line | Problem:
    if b"\0" in raw:
        return Problem(place, "", f"a NUL byte at byte {offset + raw.index(0)} of the file.")
    try:
        return number, raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte = f"0x{raw[error.start]:02x} at byte {offset + error.start} of the file"
        return Problem(place, "", f"not UTF-8: {byte}.", "Convert the file to UTF-8.")


def _wrong_type(path: Path) -> Problem | None:
    """Tell what a file is that isn't what its name says."""
    try:
        with opened(path) as file:
            head = file.read(32)
    except OSError as error:
        return BrokenPart(str(path), "", f"{why_unreadable(error)}.")
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "text")
    zipped = path.suffix.lower() == ".gz"
    if zipped and found != "gzip":
        return BrokenPart(str(path), "", f"named .gz, but holds {found}.")
    if not zipped and found != "text":
        return BrokenPart(str(path), "", f"named {path.suffix}, but holds {found}.")
    return None


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with opened(path) as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        with gzip.open(file, "rb") as text:
            yield cast("IO[bytes]", text)
