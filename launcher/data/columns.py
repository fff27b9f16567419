"""Which format a row has, decided by the columns that exist, and the checked values in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.data.rows import RowError
from launcher.recipe.schema import Columns


def language_row(row: Mapping[str, Any], columns: Columns) -> tuple[str, Any] | RowError:
    """Return (format, value): chat before prompt/completion before plain text.

    A column whose value is null counts as absent: files of mixed rows have all columns everywhere.
    """
    try:
        if row.get(columns.messages) is not None:
            return "chat", row[columns.messages]
        if row.get(columns.prompt) is not None and row.get(columns.completion) is not None:
            prompt = text_of(row, columns.prompt)
            completion = text_of(row, columns.completion)
            if not completion.strip():
                return RowError(f"{columns.completion} is empty, so there is nothing to learn.")
            return "prompt", (prompt, completion)
        if row.get(columns.text) is not None:
            return "text", text_of(row, columns.text)
    except RowError as error:
        return error
    return missing_columns(
        row,
        f"{columns.messages}, or {columns.prompt} and {columns.completion}, or {columns.text}",
    )


def text_of(row: Mapping[str, Any], column: str) -> str:
    """Return a column that must be a string."""
    value = row[column]
    if not isinstance(value, str):
        raise RowError(f"{column} is {kind_of(value)}, need a string.")
    return value


def missing_columns(row: Mapping[str, Any], needed: str) -> RowError:
    """Say which columns were needed and which there are."""
    keys = ", ".join(key for key, value in row.items() if value is not None) or "none"
    return RowError(
        f"needs the columns {needed}; it has {keys}. Name yours under data.columns, "
        "such as data.columns.text=body."
    )


def kind_of(value: Any) -> str:
    """Describe a value of the wrong type in the reader's words (JSON's, not Python's)."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return f"the number {value!r}" if isinstance(value, int | float) else f"{value!r}"
