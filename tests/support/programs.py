"""Finds the programs of daemons that tests start, which are not on everybody's path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")


def program(name: str) -> str | None:
    """Return a program's path; None where it isn't installed."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))


def need(name: str) -> str:
    """Return the path of a program that has to be there."""
    found = program(name)
    assert found is not None, name
    return found


def missing(names: Sequence[str]) -> list[str]:
    """Return those of these programs that are not installed."""
    return [name for name in names if program(name) is None]
