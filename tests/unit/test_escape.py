"""Text from outside is shown, and does nothing."""

from __future__ import annotations

import ast
import json

import pytest
from ruamel.yaml import YAML

from launcher.escape import as_code_span, for_markdown, for_terminal, quoted

NASTY = [
    'a"b\\c\\c',
    "a\nb: c\n---\n",
    "`x` ``y``",
    "é 你好 👋",
    "[x](y) |",
    "#{{ 7 }} <b>",
    "\x1b[2J",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jcleared\a", "\\x1b[2Jcleared\\x07"),
        ("two\nlines\tand 你好 👋", "two\nlines\tand 你好 👋"),
        ("over\rwritten", "over\\x0dwritten"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("half \ud83d", "half \\ud83d"),
        ("\x9b31m", "\\x9b31m"),
        ("tag \U000e0041", "tag \\U000e0041"),
    ],
)
def test_a_terminal_is_moved_by_nothing(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


@pytest.mark.parametrize("text", NASTY)
def test_a_quoted_text_is_one_string_to_all_three(text: str) -> None:
    expected = for_terminal(" ".join(text.split()))
    assert ast.literal_eval(quoted(text)) == json.loads(quoted(text)) == expected
    assert YAML(typ="safe").load(f"key: {quoted(text)}\n") == {"key": expected}


def test_markdown_takes_it_as_it_stands() -> None:
    assert for_markdown("*a* | [b](c)\n# d_e _f_") == r"\*a\* \| \[b\](c) # d_e \_f\_"
    assert as_code_span("plain") == "`plain`"
    assert as_code_span("a`b``c") == "``` a`b``c ```"
