"""What nodes say of themselves: the odd one out is named, and so is what it lacks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher.cluster.nodes.facts import CACHE_FOLDER, RUN_FOLDER, read_smi
from launcher.cluster.nodes.head import judge_link, new_inquiry
from launcher.cluster.nodes.preflight import Preflight, compare, read_node_files, remove_files
from launcher.run_dir import LogDir


def node(rank: int, **changed: Any) -> dict[str, Any]:
    versions = {"shardlaunch": "0.1.0", "torch": "2.13.0", **changed.pop("versions", {})}
    return {
        "node_rank": rank,
        "host": f"n{rank}",
        "recipe": "abc",
        "ranks": 8,
        "python": "3.11.9",
        "versions": versions,
        "driver": "580.1",
        "gpus": [{"name": "H100", "used_mib": 4, "total_mib": 81_559}],
        "problems": [],
        **changed,
    }


def problems(nodes: list[dict[str, Any]]) -> list[list[str]]:
    return [found["problems"] for found in compare(nodes)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recipe": "xyz"}, "has recipe xyz, the others have abc"),
        ({"versions": {"shardlaunch": "0.2.0"}}, "has launcher 0.2.0, the others have 0.1.0"),
        ({"versions": {"torch": "2.12.0"}}, "has torch 2.12.0, the others have 2.13.0"),
        ({"driver": "570.2"}, "has driver 570.2, the others have 580.1"),
        ({"ranks": 4}, "has number of ranks 4, the others have 8"),
    ],
)
@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_odd_one_is_named_the_head_too(odd: int, changed: dict[str, Any], said: str) -> None:
    nodes = [node(rank, **(changed if rank == odd else {})) for rank in range(3)]
    assert problems(nodes) == [[said] if rank == odd else [] for rank in range(3)]


def test_of_two_the_head_is_right() -> None:
    assert problems([node(0), node(1, driver=None)]) == [[], ["has driver None, node 0 has 580.1"]]


def test_who_said_nothing_is_not_compared() -> None:
    silent = {"node_rank": 1, "host": "n1", "problems": ["did not answer within 15 s"]}
    assert problems([node(0), silent]) == [[], ["did not answer within 15 s"]]


def test_a_gpu_in_use_is_not_free() -> None:
    gpus, driver, found = read_smi(
        "NVIDIA H100, 4, 81559, 580.1\nNVIDIA H100, 40000, 81559, 580.1\nGH200, [N/A], [N/A], 580.1"
    )
    assert (len(gpus), driver) == (3, "580.1")
    assert found == ["GPU 1 is not free: 40000 of 81559 MiB are in use"]


def test_a_folder_is_shared_if_each_sees_the_others_file(tmp_path: Path) -> None:
    inquiry = new_inquiry({RUN_FOLDER: str(tmp_path), CACHE_FOLDER: str(tmp_path)}, None)
    assert inquiry.head_file(str(tmp_path)).exists()
    inquiry.node_file(str(tmp_path), 0).touch()
    found = read_node_files(inquiry, [node(0), node(1)])
    assert found[0]["problems"] == []
    (problem,) = found[1]["problems"]
    assert "is not the head's" in problem
    remove_files(inquiry)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_node_is_to_be_avoided(tmp_path: Path) -> None:
    found = Preflight(compare([node(0), node(1), node(2, recipe="x")]), 1.0)
    cause = found.cause(LogDir(tmp_path))
    assert "node 2 (n2) has recipe x" in cause.text
    assert (cause.category, cause.nodes, cause.can_restart) == ("node", ("n2",), True)
    refused = {"node_rank": 1, "host": "n1", "refused": True, "problems": ["recipe.yaml:3: no."]}
    cause = Preflight(compare([node(0), refused])).cause(LogDir(tmp_path))
    assert (cause.category, cause.nodes, cause.exit_code) == ("input", (), 2)
    assert not cause.can_restart


def test_the_table_has_a_row_a_node() -> None:
    link = {"bytes": 16 << 20, "seconds": 0.012, "gigabytes_per_second": 1.4}
    out = io.StringIO()
    Preflight([node(0), node(1)], 1.3, link).print(Console(file=out, width=120))
    for part in ("n0", "n1", "1 x H100", "580.1", "16 MiB over 2 nodes: 12.0 ms, 1.40 GB/s"):
        assert part in out.getvalue()


GOOD = {"bytes": 1, "seconds": 1.0, "gigabytes_per_second": 1.0}


def test_a_link_that_does_not_add_is_a_problem_a_slow_disk_is_not() -> None:
    flight = Preflight([node(0), node(1)])
    assert judge_link(flight, [GOOD, GOOD]).is_ok
    late = judge_link(flight, [{"error": "not ready", "late": [1]}, {"error": "x", "late": [-1]}])
    assert late.is_ok
    assert late.link == {"error": "node 1 was not ready in time"}
    broken = judge_link(flight, [{"error": "Timed out", "late": []}, {"error": "y", "late": []}])
    assert not broken.is_ok
    assert "node 0: Timed out; node 1: y" in broken.cause(LogDir(Path("x"))).text
