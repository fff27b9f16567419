"""Class names and indices of labels, which data files give as strings or as integers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from launcher.data.columns import kind_of
from launcher.data.rows import RowError


def name_of(value: Any) -> str:
    """Return the class name of a label: a string as it is, an integer in digits."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"the label is {kind_of(value)}, need a class name or an integer.")


INTEGER = re.compile("-?[0-9]{1,18}")


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Order class names: by number if all are integers (2 before 10), else by text."""
    distinct = set(names)
    if all(INTEGER.fullmatch(name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


class LabelIndex:
    """Finds the class index of a label."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._index = {name: i for i, name in enumerate(labels)}

    def __call__(self, value: Any) -> int:
        """Return the index of a name, or of an integer that is itself a name or an index."""
        name = name_of(value)
        if name in self._index:
            return self._index[name]
        # names given by the recipe and integers in the data: the integers count the names
        if isinstance(value, int) and 0 <= value < len(self._labels):
            return value
        known = ", ".join(self._labels[:20]) + (", ..." if len(self._labels) > 20 else "")
        raise RowError(f"the label {value!r} is not one of the {len(self._labels)}: {known}.")
