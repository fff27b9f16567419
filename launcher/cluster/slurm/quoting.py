"""Puts values where two parsers read them: bash, and sbatch's own for lines of #SBATCH."""

from __future__ import annotations

import re
import shlex

# Slurm's reader knows quotes and the backslash, and takes an unquoted # for a comment
# (src/sbatch/opt.c, _get_argument); it reads one line, of any bytes but NUL.
_PLAIN = re.compile(r"[A-Za-z0-9_.,:;@%+=/&|*()\[\]-]+")


def for_bash(value: object) -> str:
    """Return a value as one word of bash."""
    text = str(value)
    require_one_line(text)
    return shlex.quote(text)


def for_sbatch(value: object) -> str:
    """Return a value as the rest of one option on a line of #SBATCH."""
    text = str(value)
    require_one_line(text)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def as_file_name_pattern(path: object) -> str:
    """Return a path as a file name pattern of sbatch: a % of its own is doubled."""
    return str(path).replace("%", "%%")


def has_line_break(text: str) -> bool:
    """Tell whether a text has anything that could end a line, or end the text early."""
    return any(ord(character) < 32 or character in "\x7f\x85\u2028\u2029" for character in text)


def require_one_line(text: str) -> None:
    """Refuse what no quoting makes safe: all values are checked before, so this is a bug then.

    Raises:
        ValueError: the text has a line break or another control character.
    """
    if has_line_break(text):
        raise ValueError(f"no value of a job script: {text!r}")
