"""What tests need of the machine: programs of daemons, not on everybody's path, and root."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import pytest

SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")


def program(name: str) -> str | None:
    """Return a program's path; None where it isn't installed."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))


def need(name: str) -> str:
    """Return the path of a program that has to be there."""
    found = program(name)
    assert found is not None, name
    return found


def need_root(what: str) -> None:
    """Skip a test that does something which only root may do."""
    if os.geteuid():
        pytest.skip(f"{what} needs root")


def missing(names: Sequence[str]) -> list[str]:
    """Return those of these programs that are not installed."""
    return [name for name in names if program(name) is None]
