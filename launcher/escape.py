"""Text from outside, escaped for where it goes: rows, labels, names, what libraries say.

For HTML the report's template engine does it, for the shell and sbatch `cluster/slurm/quoting.py`.
"""

from __future__ import annotations

import json
import re

_MARKDOWN = re.compile(r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)")
"""What has a meaning in the middle of a line; an underscore inside a word has none."""
_MOVES = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_TICKS = re.compile(r"`+")


def for_terminal(text: str) -> str:
    """Return text that moves no cursor, rings no bell and turns no direction; lines stay lines.

    Escaped are Unicode's control characters, halves of pairs, and of the format characters all but
    those that join letters and emoji.
    """
    return _MOVES.sub(_escaped, text)


def for_markdown(text: str) -> str:
    """Return text that is read as it stands, in a paragraph or a table's cell."""
    return _MARKDOWN.sub(r"\\\g<0>", _one_line(text))


def as_code_span(text: str) -> str:
    """Return a code span of Markdown; its fence is longer than any in the text (CommonMark 6.1)."""
    shown = _one_line(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(found) for found in _TICKS.findall(shown)), default=0))
    padding = " " if "`" in shown else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def quoted(text: str) -> str:
    """Return a double-quoted string that YAML, JSON and Python read alike."""
    return json.dumps(_one_line(text), ensure_ascii=False)


def _one_line(text: str) -> str:
    return for_terminal(" ".join(text.split()))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 1 << 8:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
