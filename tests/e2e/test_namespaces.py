"""Nodes with addresses of their own: ranks find the right interface, and a dead link is noticed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.nodes.lines import SILENT_SECONDS
from tests.support.namespaces import Cable, why_not
from tests.support.nodes import Nodes
from tests.support.training import events

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it can")


@pytest.fixture
def recipe(topics_recipe: Callable[..., dict[str, Any]], tiny_bert_dir: Path) -> dict[str, Any]:
    return topics_recipe(
        run={"timeout_seconds": 90.0, "max_restarts": 0},
        model={"path": str(tiny_bert_dir)},
        train={"max_steps": 3, "micro_batch_size": 2},
        cluster={"cpu_ranks": 2},
    )


@pytest.fixture(autouse=True)
def _nothing_said_of_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")


def start(nodes: Nodes, cable: Cable) -> Nodes:
    for node_rank, host in enumerate((cable.left, cable.right)):
        options = ["--head", cable.left.address]
        nodes.start(node_rank, *options, namespace=host.name, SLURMD_NODENAME=host.name)
    return nodes


def test_nodes_with_distinct_addresses_train(tmp_path: Path, recipe: dict[str, Any]) -> None:
    with Cable() as cable, Nodes(tmp_path, recipe) as nodes:
        ended = start(nodes, cable).end()
    assert [code for code, _, _ in ended.values()] == [0, 0], ended
    (started,) = events(nodes.run_dir, "start")
    assert (started["world_size"], started["num_nodes"]) == (4, 2)
    hosts = [json.loads(nodes.logs.heartbeat(rank).read_text())["host"] for rank in range(4)]
    assert hosts == [cable.left.name] * 2 + [cable.right.name] * 2
    assert json.loads(nodes.logs.attempt.read_text())["nodes"] == [hosts[0], hosts[2]]
    seen = json.loads(nodes.logs.preflight.read_text())
    assert [node["host"] for node in seen["nodes"]] == [hosts[0], hosts[2]]
    assert seen["allreduce"] is not None


def test_a_link_that_goes_down_ends_both_sides(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Nothing closes a connection then: each side hears nothing any more, and says of whom."""
    recipe["train"]["max_steps"] = 100_000
    with Cable() as cable, Nodes(tmp_path, recipe) as nodes:
        start(nodes, cable).wait_for_step(2)
        ranks = [nodes.rank(rank) for rank in range(4)]
        unplugged_at = time.time()
        cable.unplug()
        ended = nodes.end(SILENT_SECONDS + 30)  # both sides, whichever writes the cause
        named_at = nodes.logs.cause.stat().st_mtime
        assert named_at - unplugged_at <= SILENT_SECONDS + 5
        left, right = cable.left, cable.right
    assert [code for code, _, _ in ended.values()] == [1, 1]
    silence = "was lost: nothing was heard of it for 10 s"
    assert f"node 1 ({right.name}, {right.address}) {silence}" in ended[0][2]
    assert f"the head, node 0 ({left.name}, {left.address}) {silence}" in ended[1][2]
    assert not any(rank.is_alive for rank in ranks)
    cause = json.loads(nodes.logs.cause.read_text())
    assert cause["category"] == "node"
