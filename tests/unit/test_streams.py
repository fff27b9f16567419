"""What is printed is a courtesy: whoever reads it may go, and the process goes on."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.streams import lenient

PRINTS = """
import sys
from launcher.streams import outlive_readers
outlive_readers()
print("first", flush=True)
print("first", file=sys.stderr, flush=True)
sys.stdin.read()
for _ in range(2000):
    print("x" * 100)
    print("x" * 100, file=sys.stderr)
raise SystemExit(7)
"""


def test_a_process_outlives_its_readers() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        assert pipe.readline() == b"first\n"
        pipe.close()
    process.stdin.close()
    assert process.wait(30) == 7


def test_trouble_is_told_once() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told: list[str] = []
    with os.fdopen(writer, "w", buffering=1) as file:
        stream = lenient(file, told.append)
        for _ in range(3):
            stream.write("gone\n")
            stream.flush()
    assert told == ["Broken pipe"]


def test_a_closed_stream_is_trouble_too() -> None:
    told: list[str] = []
    file = io.StringIO()
    stream = lenient(file, told.append)
    file.close()
    stream.write("x")
    assert told == ["I/O operation on closed file"]


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"caf\\xe9 \\u2026\n"), ("latin-1", b"caf\xe9 \\u2026\n")]
)
def test_what_a_terminal_cannot_show_is_escaped(encoding: str, shown: bytes) -> None:
    buffer = io.BytesIO()
    stream = lenient(io.TextIOWrapper(buffer, encoding=encoding))
    stream.write("café …\n")
    stream.flush()
    assert buffer.getvalue() == shown


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_commands_work_with_closed_streams(closed: str, tmp_path: Path) -> None:
    """No file that is opened later gets the number of a standard stream."""
    code = (
        "import sys; from launcher.streams import outlive_readers; outlive_readers();"
        f"file = open({str(tmp_path / 'data')!r}, 'w'); assert file.fileno() > 2;"
        "print('x'); print('y', file=sys.stderr); sys.stdout.flush()"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "data").read_text() == ""
