"""Reads files that others may have made: regular ones only, up to a size, JSON up to a depth.

Whoever can write to a folder can put anything into it: a pipe that never ends, gigabytes, JSON
that is nested ten thousand times, a number of a million digits.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

SMALL_BYTES = 1 << 24
"""16 MiB: more than any recipe, config, template, record or log of a launch has."""
DEEPEST = 64
LONGEST_NUMBER = 40
"""Digits; 2^64 has 20."""
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class OddFileError(OSError):
    """What lies there is no regular file of a reasonable size; `strerror` says what it is."""


def why_unreadable(error: OSError | ValueError) -> str:
    """Return what to say after the name of a file that `read_text` or `read_json` refused."""
    if isinstance(error, OddFileError):
        return str(error.strerror)
    if isinstance(error, UnicodeDecodeError):
        byte = f"byte {error.start + 1} is {error.object[error.start]:#04x}"
        return f"is not UTF-8: {byte}"
    if isinstance(error, OSError):
        return f"can't be read: {error.strerror}"
    return f"is not JSON: {error}"


@contextmanager
def opened(path: Path, most_bytes: int | None = None) -> Iterator[BufferedReader]:
    """Open a regular file to read.

    Raises:
        OddFileError: it is something else, or has more than `most_bytes`.
        OSError: it can't be opened.
    """
    _require_regular(path, path.stat(), most_bytes)  # some devices do something when opened
    # Not blocking: a pipe that was put there since would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        _require_regular(path, os.fstat(file.fileno()), most_bytes)
        yield file


def require_file(path: Path, most_bytes: int | None) -> None:
    """Raise OddFileError unless a library may read what lies there whole."""
    _require_regular(path, path.stat(), most_bytes)


def read_bytes(path: Path, most_bytes: int = SMALL_BYTES) -> bytes:
    """Return what is in a small file; raises as `opened` does."""
    with opened(path, most_bytes) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:  # it grows, or has no size, as those of /proc
        raise _too_large(path, len(data), most_bytes)
    return data


def read_text(path: Path, most_bytes: int = SMALL_BYTES, errors: str = "strict") -> str:
    """Return the UTF-8 text of a small file; raises as `opened` does, and UnicodeDecodeError."""
    return read_bytes(path, most_bytes).decode(errors=errors)


def parse_json(text: str | bytes) -> Any:
    """Return the value that JSON text is.

    Raises:
        ValueError: it is none, is nested too deeply, or has a number of too many digits.
    """
    try:
        value = json.loads(text, parse_int=parse_integer)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None
    if _depth_exceeds(value, DEEPEST):
        raise ValueError(f"nested more than {DEEPEST} deep")
    # Halves of pairs, which no UTF-8 file can hold.
    escape = "\\ud" if isinstance(text, str) else b"\\ud"
    return _whole(value) if escape in text.lower() else value  # type: ignore[operator]


def read_json(path: Path, most_bytes: int = SMALL_BYTES) -> Any:
    """Return the value in a JSON file; raises as `opened` and `parse_json` do."""
    return parse_json(read_bytes(path, most_bytes))


class Record(dict[str, Any]):
    """A JSON object that anybody may have written: what has another type than asked for is absent.

    A subclass of dict, so that a record can be written out again as it was read.
    """

    def text(self, name: str) -> str | None:
        """Return a text."""
        value = self.get(name)
        return value if isinstance(value, str) else None

    def integer(self, name: str) -> int | None:
        """Return a whole number that fits into 64 bits."""
        value = self.get(name)
        is_one = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        return value if is_one else None

    def number(self, name: str) -> float | None:
        """Return a number; those that JSON has none for are texts, such as `NaN`."""
        value = self.get(name)
        if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return None

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts of a list; empty if it is no list of texts alone."""
        value = self.get(name)
        is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return tuple(value) if isinstance(value, list) and is_list else ()

    def record(self, name: str) -> Record:
        """Return an object; empty if it is none."""
        value = self.get(name)
        return Record(value) if isinstance(value, dict) else Record()

    def records(self, name: str) -> list[Record]:
        """Return the objects of a list; those of its items that are none are left out."""
        value = self.get(name)
        items = value if isinstance(value, list) else []
        return [Record(item) for item in items if isinstance(item, dict)]

    @property
    def integers(self) -> dict[str, int]:
        """What it holds of whole numbers, by name."""
        found = {name: self.integer(name) for name in self}
        return {name: value for name, value in found.items() if value is not None}


def read_object(path: Path) -> Record | None:
    """Return the JSON object in a file; None if there is no such file, or no object in it."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return Record(value) if isinstance(value, dict) else None


def read_record(path: Path) -> Record:
    """Return the JSON object in a file; an empty one where there is none."""
    return read_object(path) or Record()


def real(path: Path) -> Path:
    """Return an absolute path with all links followed; a loop of links stays as it is."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError there


def modified(path: Path) -> float | None:
    """Return when a file was written last, in seconds since the epoch; None if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a regular file of any size, read in blocks."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_regular(path: Path, found: os.stat_result, most_bytes: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in KINDS if is_kind(found.st_mode)), "no file")
        raise OddFileError(errno.EINVAL, f"is {kind}, not a file", str(path))
    if most_bytes is not None and found.st_size > most_bytes:
        raise _too_large(path, found.st_size, most_bytes)


def _too_large(path: Path, num_bytes: int, most_bytes: int) -> OddFileError:
    text = f"has {num_bytes:,} bytes; at most {most_bytes:,} are read"
    return OddFileError(errno.EFBIG, text, str(path))


def parse_integer(digits: str) -> int:
    """Return a whole number; raise ValueError where it has too many digits."""
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits; at most {LONGEST_NUMBER} are read")
    return int(digits)


def _whole(value: Any) -> Any:
    """Return a value, its depth known, with a question mark for each half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def _depth_exceeds(value: Any, depth: int) -> bool:
    """Look level by level: no recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
