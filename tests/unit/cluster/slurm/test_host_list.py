"""Lists of nodes without a Slurm at hand; tests/slurm compares them with scontrol's."""

from __future__ import annotations

import pytest

from launcher.cluster.slurm.host_list import hostnames


@pytest.mark.parametrize("nodes", ["", "(null)", "None assigned"])
def test_no_nodes(nodes: str) -> None:
    assert hostnames(nodes) == ()


def test_names_and_ranges_in_their_order() -> None:
    assert hostnames("n1") == ("n1",)
    assert hostnames("n2,n1") == ("n2", "n1")
    assert hostnames("n[3,1-2],m") == ("n3", "n1", "n2", "m")


def test_padding_and_several_brackets() -> None:
    assert hostnames("n[08-11]") == ("n08", "n09", "n10", "n11")
    assert hostnames("r[1-2]n[01-02].x") == ("r1n01.x", "r1n02.x", "r2n01.x", "r2n02.x")
