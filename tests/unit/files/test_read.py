"""Only regular files of a reasonable size are read, and only JSON of a reasonable shape."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from launcher.files.read import OddFileError, parse_json, read_bytes, read_object, sha256_of


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a pipe"),
        (os.mkdir, "a folder"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "a socket"),
        (lambda path: Path(path).symlink_to("/dev/zero"), "a device"),
    ],
)
def test_what_is_no_file_is_named(tmp_path: Path, make: object, kind: str) -> None:
    path = tmp_path / "odd"
    assert callable(make)
    make(path)
    for read in (read_bytes, sha256_of):
        with pytest.raises(OddFileError, match=f"is {kind}, not a file"):
            read(path)
    assert read_object(path) is None


def test_more_bytes_than_wanted_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    with pytest.raises(OddFileError, match="has 1,099,511,627,776 bytes; at most 16,777,216"):
        read_bytes(path)
    assert read_object(path) is None


def test_a_file_without_a_size_is_read_up_to_the_limit() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert read_bytes(Path("/proc/self/status")).startswith(b"Name:")
    with pytest.raises(OddFileError, match="at most 10 are read"):
        read_bytes(Path("/proc/self/status"), 10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 64 deep"),
        ("1" * 41, "a number of 41 digits"),
        ("1" * 100_000, "a number of 100000 digits"),
        ("{", "Expecting"),
        (b"\xff", "utf-8|invalid"),
    ],
)
def test_json_of_another_shape_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_of_a_usual_shape_is_read() -> None:
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json('["\\ud83d", "\\ud83d\\ude00", {"\\udc00": 1}]') == [
        "\ufffd",
        "😀",
        {"\ufffd": 1},
    ]
    assert parse_json('{"step": 18446744073709551616, "loss": NaN}')["step"] == 2**64
