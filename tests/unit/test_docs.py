"""Commands in docs/ that no test runs have real options, and name real recipes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from launcher.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = [
    line
    for path in sorted((REPOSITORY / "docs").glob("*.md"))
    for block in re.findall(r"^```bash(?: cluster)?\n(.*?)^```$", path.read_text(), re.M | re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("launcher ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    group: Any = typer.main.get_command(app)
    group.commands[name].make_context(name, arguments)
    for recipe in (REPOSITORY / word for word in arguments if word.startswith("recipes/")):
        assert recipe.exists(), recipe


def test_there_are_such_commands() -> None:
    assert len(COMMANDS) >= 4
