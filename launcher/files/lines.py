"""Files of records, one JSON object a line: what isn't one is counted, and hurts no other."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from launcher.files.read import OddFileError, Record, opened, parse_json, why_unreadable

LONGEST_BYTES = 1 << 20
"""Of a record: 1 MiB."""
MOST_BYTES = 1 << 34
"""Of a file: 16 GiB, where a step takes some 400 bytes."""


@dataclass(frozen=True)
class Lines:
    """What a file of records holds."""

    records: list[Record]
    bad_lines: tuple[int, ...]
    """Numbers (from 1) of lines that aren't a record: torn by a kill, or somebody else's."""
    is_clean: bool
    """True if the file can be appended to as it is."""
    unreadable: str = ""
    """Why nothing of it was read, where something lies there."""


def read_lines(path: Path) -> Lines:
    """Return the records of a file; of one that isn't there, or can't be read, there are none."""
    records, bad, ends_well = [], [], True
    try:
        with opened(path, MOST_BYTES) as file:
            for number, line in enumerate(_bounded(file), start=1):
                ends_well = line.endswith(b"\n")
                record = parse_record(line)
                if record is not None:
                    records.append(record)
                elif line.strip():
                    bad.append(number)
    except FileNotFoundError:
        return Lines([], (), is_clean=not path.is_symlink())
    except OSError as error:
        if not isinstance(error, OddFileError | PermissionError) and error.errno != errno.ELOOP:
            raise  # a failing disk: what is there may be whole
        return Lines([], (), is_clean=False, unreadable=why_unreadable(error))
    # A file is not appended to by way of a link.
    return Lines(records, tuple(bad), is_clean=not bad and ends_well and not path.is_symlink())


def parse_record(line: str | bytes) -> Record | None:
    """Return the record that a line is; None if it is none."""
    if len(line) > LONGEST_BYTES:
        return None
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return Record(value) if isinstance(value, dict) else None


def _bounded(file: BufferedReader) -> Iterator[bytes]:
    """Yield lines; of one that is too long, only its beginning and end: that is no record."""
    while piece := file.readline(LONGEST_BYTES + 1):
        if len(piece) <= LONGEST_BYTES:
            yield piece
            continue
        last = piece
        while not last.endswith(b"\n") and (more := file.readline(LONGEST_BYTES)):
            last = more
        yield piece + last[-1:]
