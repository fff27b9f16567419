"""YAML is read as the 1.2 specification says, and with the lines that a reader looks for."""

from __future__ import annotations

import math

import pytest
from ruamel.yaml import YAML

from launcher.errors import InputError
from launcher.recipe.read_yaml import parse_scalar, parse_yaml

DOCUMENT = """\
# comment
plain: {a: 1, b: [2, 3.5, -4e-3, .5], "quoted": "1"}
flags: [true, False, no, yes, on, null, ~]
anchors: [&x {k: v}, *x]
text: |
  two
  lines
folded: >-
  one
  line
empty:
numbers: [1e-5, 0x1F, 0o17, +7, 0, 1_000, 12:30:45]
"""


def test_values_are_those_of_another_parser() -> None:
    other = YAML(typ="safe", pure=True).load(DOCUMENT)
    other["numbers"][5] = "1_000"  # ruamel keeps this from YAML 1.1; the 1.2 core schema doesn't
    assert parse_yaml(DOCUMENT, "f").plain() == other


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2.0E+3", 2000.0),
        ("no", "no"),
        ("08", "08"),
        ("-0", 0),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("1.", 1.0),
        (".", "."),
        ("e5", "e5"),
    ],
)
def test_scalar(text: str, value: object) -> None:
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(parse_scalar(".nan"))


def test_every_value_knows_its_line() -> None:
    root = parse_yaml("a: 1\nb:\n  c:\n    - x\n    - y: 2\n", "f.yaml")
    assert root.place_of(("a",)) == "f.yaml:1"
    assert root.place_of(("b",)) == "f.yaml:2"
    assert root.place_of(("b", "c", 1, "y")) == "f.yaml:5"
    assert root.place_of(("b", "absent", "key")) == "f.yaml:2"


def test_an_alias_costs_what_it_expands_to() -> None:
    rows = "\n".join(f"k{i}: *a" for i in range(30))
    wide = f"a: &a [{','.join('x' * 900)}]\n{rows}"
    with pytest.raises(InputError, match=r"f:\d+: aliases expand past the expansion limit"):
        parse_yaml(wide, "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!str 1", "f:1: tags are not allowed, got !!str"),
        ("a: !Ref x", "f:1: tags are not allowed, got !Ref"),
        ("*x", r"f:1: alias \*x has no anchor"),
        ("a: 1\n---\nb: 2", "f:2: a second document starts here"),
        ("? [1]\n: 2", "f:1: a key has to be plain text"),
        ("a: b: c", "f:1: not YAML in column 5: mapping values are not allowed"),
        ("a: \x01", "f: not YAML at character 4"),
        ('a: "\\UFFFFFFFF"', "f"),
    ],
)
def test_what_is_not_plain_data_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_yaml(text, "f")
