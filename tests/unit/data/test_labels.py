"""Labels are strings or integers; which class they mean never depends on chance."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.data.labels import LabelIndex, name_of, sorted_names
from launcher.data.rows import RowError


def test_integers_sort_by_value_and_names_by_text() -> None:
    assert sorted_names(["10", "2", "2", "-1"]) == ("-1", "2", "10")
    assert sorted_names(["b", "10", "a", "2"]) == ("10", "2", "a", "b")
    assert sorted_names(["--1", "2"]) == ("--1", "2")
    assert sorted_names(["9" * 5000, "2"]) == ("2", "9" * 5000)


def test_a_name_and_the_integer_it_spells_are_one_class() -> None:
    index = LabelIndex(("0", "2"))
    assert [index(value) for value in ("0", 0, 2, "2")] == [0, 0, 1, 1]


def test_integers_count_the_names_that_the_recipe_gives() -> None:
    index = LabelIndex(("negative", "positive"))
    assert [index(value) for value in (1, "negative")] == [1, 0]
    with pytest.raises(RowError, match="the label 2 is not one of the 2: negative, positive"):
        index(2)


@pytest.mark.parametrize("value", [True, None, 1.0, "", ["a"]])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(RowError, match="need a class name or an integer"):
        name_of(value)
