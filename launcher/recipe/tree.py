"""A config file as a tree in which every value remembers the place it was written at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launcher.errors import Problem

KeyPath = tuple[str | int, ...]
DEFAULT = "default"


@dataclass(frozen=True)
class Node:
    """A scalar, a mapping or list of nodes; and its place (`file:line` or `--set k=v`)."""

    value: Any
    place: str

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def walk(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
        """Yield every node below and including this one with its path."""
        yield path, self
        if isinstance(self.value, dict):
            for key, node in self.value.items():
                yield from node.walk((*path, key))
        elif isinstance(self.value, list):
            for index, node in enumerate(self.value):
                yield from node.walk((*path, index))

    def child(self, key: str | int) -> Node | None:
        """Return the node under `key`, or None."""
        if isinstance(self.value, dict) and isinstance(key, str):
            below = self.value.get(key)
        elif isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            below = self.value[key]
        else:
            return None
        assert below is None or isinstance(below, Node), below
        return below

    def place_of(self, path: KeyPath) -> str:
        """Return the place of the node at `path`, or of its nearest ancestor that was written."""
        node = self
        for key in path:
            below = node.child(key)
            if below is None:
                break
            node = below
        return node.place


def dotted(path: KeyPath) -> str:
    """Return a path as users write it: `data.train.0.path`."""
    return ".".join(str(part) for part in path)


def merge(base: Node, over: Node) -> Node:
    """Lay `over` on `base`: sections are joined key by key, everything else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    joined = dict(base.value)
    for key, node in over.value.items():
        joined[key] = merge(joined[key], node) if key in joined else node
    return Node(joined, over.place)


def set_at(root: Node, path: KeyPath, leaf: Node) -> Node:
    """Return `root` with `leaf` at `path`; sections on the way are made as needed.

    Raises `KeyError` (with the dotted path so far) where the path runs through a scalar or past
    the end of a list.
    """
    if not path:
        return merge(root, leaf)
    key, rest = path[0], path[1:]
    if isinstance(root.value, list):
        index = int(key) if re.fullmatch("[0-9]{1,9}", str(key)) else -1
        if not 0 <= index < len(root.value):
            raise KeyError(str(key))
        items = list(root.value)
        items[index] = set_at(items[index], rest, leaf)
        return Node(items, root.place)
    if not isinstance(root.value, dict):
        raise KeyError(str(key))
    below = root.value.get(key)
    if below is None or (rest and below.value is None):
        below = Node({}, leaf.place) if rest else leaf
    return Node({**root.value, str(key): set_at(below, rest, leaf)}, root.place)


def duplicate_key(key: str, first: str, second: str) -> Problem:
    """Return the problem of a key that stands twice in one section."""
    line = first.rpartition(":")[2]
    return Problem(second, key, f"stands twice; first on line {line}.", "Keep one of the two.")
