"""Reads a DeepSpeed config strictly, keeping the line of every value.

DeepSpeed itself takes hjson, in which a missing comma or a typo often still means something.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.files.read import parse_integer
from launcher.recipe.read_yaml import MAX_BYTES, MAX_DEPTH
from launcher.recipe.tree import Node, duplicate_key
from launcher.shipped import find_file, shipped_names

_SPACE = re.compile(r"[ \t\n\r]*")


def find_deepspeed(name: str, place: str) -> Path:
    """Return the file of a DeepSpeed config: relative to the current folder, else a shipped one."""
    shipped = ", ".join(shipped_names("ds_configs", ".json"))
    if name == "auto":
        message = "auto is not available yet."
        raise InputError(
            Problem(place, "deepspeed", message, f"Write a file, or one of {shipped}.")
        )
    found = find_file(name, "ds_configs", ".json")
    if found is None or found.is_dir():
        message = f"no such DeepSpeed config: {name}."
        cure = f"Write a file, relative to {Path.cwd()}, or one of {shipped}."
        raise InputError(Problem(place, "deepspeed", message, cure))
    return found


def parse_deepspeed(data: bytes, name: str) -> Node:
    """Return the config as a tree; raises `InputError` with line and column where it isn't JSON.

    `name`: the file that the data were read from, for messages.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {error.start + 1} is {data[error.start]:#04x}."
        raise InputError(Problem(name, "", message, "Save it as UTF-8.")) from error
    if len(text) > MAX_BYTES:
        raise InputError(Problem(name, "", f"is larger than {MAX_BYTES} bytes."))
    try:
        json.loads(text, parse_int=str)  # syntax alone; values come with their lines below
    except json.JSONDecodeError as error:
        raise InputError(_syntax_problem(error, name)) from error
    except RecursionError as error:
        raise InputError(Problem(name, "", f"nested deeper than {MAX_DEPTH} levels.")) from error
    root = _Reader(text, name).value(depth=0)
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else json.dumps(root.value)
        raise InputError(Problem(root.place, "", f"expected object, got {kind}."))
    return root


def _syntax_problem(error: json.JSONDecodeError, name: str) -> Problem:
    before = error.doc[: error.pos].rstrip()
    here = error.doc[error.pos :].lstrip()[:2]
    place = f"{name}:{error.lineno}"
    message = f"not JSON in column {error.colno}: {error.msg}."
    dangling = before.endswith(",") and here[:1] in ("}", "]")
    if dangling or error.msg.startswith("Illegal trailing"):
        comma = len(before) - 1 if before.endswith(",") else error.pos
        line = error.doc.count("\n", 0, comma) + 1
        column = comma - error.doc.rfind("\n", 0, comma)
        message = f"not JSON in column {column}: comma after the last entry."
        return Problem(f"{name}:{line}", "", message, "Remove the comma.")
    if here in ("//", "/*") or here[:1] == "#":
        return Problem(place, "", message, "JSON has no comments: remove it.")
    return Problem(place, "", message)


class _Reader:
    """Walks text that is known to be JSON, for the lines that Python's own reader forgets."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.position = 0
        self.decoder = json.JSONDecoder(parse_int=parse_integer)

    def place(self) -> str:
        return f"{self.name}:{self.text.count(chr(10), 0, self.position) + 1}"

    def peek(self) -> str:
        space = _SPACE.match(self.text, self.position)
        assert space is not None
        self.position = space.end()
        return self.text[self.position : self.position + 1]

    def value(self, depth: int) -> Node:
        first = self.peek()
        place = self.place()
        if depth > MAX_DEPTH:
            raise InputError(Problem(place, "", f"nested deeper than {MAX_DEPTH} levels."))
        if first == "{":
            return Node(self.object(depth), place)
        if first == "[":
            return Node(self.array(depth), place)
        try:
            scalar, self.position = self.decoder.raw_decode(self.text, self.position)
        except ValueError as error:
            raise InputError(Problem(place, "", f"{error}.")) from error
        return Node(scalar, place)

    def array(self, depth: int) -> list[Node]:
        items: list[Node] = []
        self.position += 1
        while self.peek() != "]":
            items.append(self.value(depth + 1))
            if self.peek() == ",":
                self.position += 1
        self.position += 1
        return items

    def object(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        self.position += 1
        while self.peek() != "}":
            place = self.place()
            key, self.position = self.decoder.raw_decode(self.text, self.position)
            if key in entries:
                raise InputError(duplicate_key(key, entries[key].place, place))
            self.peek()
            self.position += 1  # the colon
            entries[key] = Node(self.value(depth + 1).value, place)
            if self.peek() == ",":
                self.position += 1
        self.position += 1
        return entries
