"""Standard streams whose reader may go away: `tee` dies, `head` has seen enough, a disk is full.

What a launch prints is a courtesy: training goes on without it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast


class Lenient:
    """A text stream whose first failed write is reported; what comes later is dropped unsaid."""

    def __init__(self, stream: TextIO, on_trouble: Callable[[str], None] | None = None) -> None:
        self._stream = stream
        self._on_trouble = on_trouble
        self._is_gone = False

    def write(self, text: str) -> int:
        """Write, if anybody still reads; characters that the stream has no code for are escaped."""
        try:
            if not self._is_gone:
                self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody still reads."""
        try:
            if not self._is_gone:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: Exception) -> None:
        self._is_gone = True
        # What waits in the stream's buffer is written at exit, which would fail once more.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._on_trouble is not None:
            self._on_trouble(str(getattr(error, "strerror", None) or error))


def lenient(stream: TextIO, on_trouble: Callable[[str], None] | None = None) -> TextIO:
    """Return a stream that outlives its reader; `on_trouble` is told once why nobody reads."""
    return cast("TextIO", Lenient(stream, on_trouble))


def outlive_readers() -> None:
    """Let nothing that this process prints from now on end it."""
    open_closed()
    sys.stdout, sys.stderr = lenient(sys.stdout), lenient(sys.stderr)


def open_closed() -> None:
    """Give this process standard streams that lead nowhere where it was started without (`>&-`).

    Python has None there, and the next file that is opened would get their number.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w"))
