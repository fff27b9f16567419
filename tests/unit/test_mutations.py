"""The mutations fit the product as it is: each line stands once in its file, each test is there."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, REPOSITORY, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise)
def test_a_mutation_fits(mutation: Mutation) -> None:
    text = (REPOSITORY / "launcher" / mutation.path).read_text(encoding="utf-8")
    assert text.count(mutation.line) == 1
    assert mutation.broken != mutation.line
    assert (REPOSITORY / mutation.tests.partition("::")[0]).is_file()
