"""Reads YAML 1.2 as plain data with line numbers; whatever could surprise is an error.

Built on the events of ruamel.yaml's parser and not on a constructor: no tag can run code, both
lines of a duplicate key are known, and aliases are counted while they are expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from launcher.errors import InputError, Problem
from launcher.files.read import parse_integer
from launcher.recipe.tree import Node, duplicate_key

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 20_000  # after aliases are expanded; a real recipe has under 200

# The core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), less leading zeros:
# `08` is a date fragment or a typo far more often than the number 8, so it stays text.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_BASED = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}


def parse_scalar(text: str) -> Any:
    """Return what an unquoted YAML 1.2 scalar means: `1e-5` is a number, `no` is text."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INTEGER.match(text):
        return parse_integer(text)
    if _BASED.match(text):
        return int(text, 0)
    return float(text) if _FLOAT.match(text) else text


def parse_yaml(text: str, name: str, *, place: str | None = None) -> Node:
    """Parse one YAML document; `name` stands in front of line numbers.

    `place`, if given, is the place of every value instead (an override has no lines).
    Raises `InputError`: syntax, tags, duplicate keys, size, depth and expansion limits.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InputError(Problem(name, "", f"is larger than {MAX_BYTES} bytes.", "Is it a recipe?"))
    try:
        return _Builder(name, place).document(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        raise InputError(_syntax_problem(error, name, text)) from error
    except (YAMLError, ValueError, OverflowError) as error:  # the last two: \U beyond Unicode
        where = f"at character {error.position + 1}" if hasattr(error, "position") else ""
        message = f"not YAML {where}: {getattr(error, 'reason', error)}."
        raise InputError(Problem(name, "", message)) from error


def _syntax_problem(error: MarkedYAMLError, name: str, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Problem(name, "", f"not YAML: {error.problem}.")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    place = f"{name}:{mark.line + 1}"
    if "\t" in line[: mark.column + 1]:
        column = line.index("\t") + 1
        return Problem(place, "", f"tab in column {column}.", "Indent with spaces.")
    message = f"not YAML in column {mark.column + 1}: {error.problem}."
    cure = "Quote values that contain ': ', or start with one of @ ` % & * ! | > [ {."
    return Problem(
        place, "", message, cure if "not allowed" in message or "token" in message else ""
    )


class _Builder:
    """Builds nodes from events; holds anchors, depth and the count of nodes so far."""

    def __init__(self, name: str, place: str | None) -> None:
        self.name = name
        self.fixed_place = place
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.num_nodes = 0
        self.depth = 0
        self.events: Iterator[Event] = iter(())

    def place(self, event: Event) -> str:
        return self.fixed_place or f"{self.name}:{event.start_mark.line + 1}"

    def fail(self, event: Event, message: str, cure: str = "") -> InputError:
        return InputError(Problem(self.place(event), "", message, cure))

    def document(self, events: Iterator[Event]) -> Node:
        """Return the one document of the stream; an empty stream gives a null node."""
        self.events = iter(events)
        root: Node | None = None
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise self.fail(event, "a second document starts here.", "Keep one per file.")
                root = self.node(next(self.events))
        return root or Node(None, self.fixed_place or f"{self.name}:1")

    def node(self, event: Event) -> Node:
        if isinstance(event, AliasEvent):
            return self.alias(event)
        assert isinstance(event, ScalarEvent | CollectionStartEvent), event
        if event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            raise self.fail(event, f"tags are not allowed, got {tag}.", "Write a plain value.")
        before = self.num_nodes
        self.count(event, 1)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(event, f"nested deeper than {MAX_DEPTH} levels.")
        node = Node(self.content(event), self.place(event))
        self.depth -= 1
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, self.num_nodes - before)
        return node

    def content(self, event: Event) -> Any:
        if isinstance(event, ScalarEvent):
            return parse_scalar(event.value) if event.implicit[0] else self.text(event)
        if isinstance(event, SequenceStartEvent):
            return self.sequence()
        assert isinstance(event, MappingStartEvent), event
        return self.mapping()

    def text(self, event: ScalarEvent) -> str:
        """Return a quoted text; two escapes that are halves of one character are that character."""
        try:
            return str(event.value.encode("utf-16", "surrogatepass").decode("utf-16"))
        except UnicodeDecodeError as error:
            message = "half a surrogate pair (\\ud800 to \\udfff) is no character."
            raise self.fail(event, message) from error

    def alias(self, event: AliasEvent) -> Node:
        if event.anchor not in self.anchors:
            raise self.fail(event, f"alias *{event.anchor} has no anchor above it.")
        node, num_nodes = self.anchors[event.anchor]
        self.count(event, num_nodes)
        return node

    def count(self, event: Event, num_nodes: int) -> None:
        self.num_nodes += num_nodes
        if self.num_nodes > MAX_NODES:
            message = f"aliases expand past the expansion limit of {MAX_NODES} values."
            raise self.fail(event, message, "Write the values out.")

    def sequence(self) -> list[Node]:
        items = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self.node(event))
        return items

    def mapping(self) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        key_places: dict[str, str] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                raise self.fail(event, "a key has to be plain text.")
            key = self.text(event)
            if key == "<<":
                raise self.fail(event, "merge keys (<<) are not YAML 1.2.", "Use `extends`.")
            if key in entries:
                raise InputError(duplicate_key(key, key_places[key], self.place(event)))
            key_places[key] = self.place(event)
            value = self.node(next(self.events))
            # The line of the key, not of a section's first entry, is where a reader looks.
            entries[key] = Node(value.value, key_places[key])
        return entries
