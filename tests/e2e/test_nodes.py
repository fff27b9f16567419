"""Several nodes carry one run: they train as one would, and end together whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.process import Process
from tests.support.launches import launch
from tests.support.nodes import Nodes
from tests.support.training import NO_DROPOUT, copy_model, events, records

HOST = socket.gethostname()
SECONDS_TO_THE_END = 10.0
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may mount something for one process"
)


@pytest.fixture
def recipe(
    topics_recipe: Callable[..., dict[str, Any]], tiny_bert_dir: Path, tmp_path: Path
) -> dict[str, Any]:
    model = copy_model(tiny_bert_dir, tmp_path / "model", **NO_DROPOUT)
    return topics_recipe(
        run={"timeout_seconds": 60.0, "max_restarts": 0},
        model={"path": str(model)},
        train={"max_steps": 8, "micro_batch_size": 2},
        checkpoint={"every_steps": 4, "keep_best": False},
        cluster={"cpu_ranks": 2},
    )


@pytest.fixture
def endless(recipe: dict[str, Any]) -> dict[str, Any]:
    recipe["train"]["max_steps"] = 100_000
    recipe["checkpoint"]["every_steps"] = 100_000
    return recipe


def attempt(nodes: Nodes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(nodes.logs.attempt.read_text())
    return found


def cause(nodes: Nodes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(nodes.logs.cause.read_text())
    return found


def test_two_nodes_train_as_one_does(tmp_path: Path, recipe: dict[str, Any]) -> None:
    with Nodes(tmp_path, recipe) as nodes:
        first = nodes.start(0)
        nodes.wait_for(nodes.run_dir.meeting_key.exists)  # the other comes late
        nodes.start(1)
        ended = nodes.end()
    assert [ended[rank][0] for rank in (0, 1)] == [0, 0], ended
    assert first.process.returncode == 0
    (start,) = events(nodes.run_dir, "start")
    assert (start["world_size"], start["num_nodes"], start["engine"]) == (4, 2, "DeepSpeedEngine")
    beats = [json.loads(nodes.logs.heartbeat(rank).read_text()) for rank in range(4)]
    assert [beat["local_rank"] for beat in beats] == [0, 1, 0, 1]
    assert len({beat["pid"] for beat in beats}) == 4
    told = attempt(nodes)
    assert (told["world_size"], told["ranks_per_node"], told["gpus"]) == (4, 2, 0)
    assert (told["nodes"], told["outcome"], told["exit_code"]) == ([HOST, HOST], "finished", 0)
    seen = json.loads(nodes.logs.preflight.read_text())
    assert seen["ok"]
    assert seen["seconds"] <= 30
    assert seen["allreduce"]["gigabytes_per_second"] > 0
    assert "all-reduce of 16 MiB over 2 nodes" in ended[0][2]

    one = launch(tmp_path / "one", recipe, "--processes", "4", "--set", "run.name=one")
    assert one.returncode == 0, one.stderr
    alone = records(type(nodes.run_dir)(nodes.run_dir.root.parent / "one"), "train/loss")
    together = records(nodes.run_dir, "train/loss")
    assert list(together) == list(alone) == list(range(1, 9))
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_killed_rank_is_named_on_all_nodes(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """The first time, the ranks of both nodes are started again from the newest checkpoint."""
    recipe["train"]["max_steps"] = 100_000
    recipe["run"]["max_restarts"] = 1
    with Nodes(tmp_path, recipe) as nodes:
        nodes.start_all()
        nodes.wait_for((nodes.run_dir.checkpoint(4) / "manifest.json").exists)
        before = {rank: nodes.rank(rank).pid for rank in range(4)}
        nodes.rank(3).send(signal.SIGKILL)
        nodes.wait_for(lambda: len(nodes.run_dir.launches) == 2)
        nodes.wait_for(lambda: nodes.logs.heartbeat(3).exists() and len(nodes.logs.heartbeats) == 4)
        nodes.wait_for(lambda: len(events(nodes.run_dir, "start")) == 2)
        assert not set(before.values()) & {nodes.rank(rank).pid for rank in range(4)}
        ranks = [nodes.rank(rank) for rank in range(4)]
        killed_at = time.time()
        ranks[3].send(signal.SIGKILL)
        ended = nodes.end()
        assert seconds_to_the_cause(nodes, killed_at) <= 6
    for code, _, stderr in ended.values():
        assert code == 1
        assert f"rank 3 on {HOST} was killed by signal 9 (SIGKILL) at" in stderr
        assert "Traceback" not in stderr
    assert "restart 1 of 1 from step-" in ended[0][2]
    assert not any(rank.is_alive for rank in ranks)
    assert (cause(nodes)["category"], cause(nodes)["rank"]) == ("killed", 3)
    assert (attempt(nodes)["outcome"], attempt(nodes)["exit_code"]) == ("failed", 1)


def test_a_lost_node_is_named(tmp_path: Path, endless: dict[str, Any]) -> None:
    with Nodes(tmp_path, endless) as nodes:
        nodes.start_all()
        nodes.wait_for_step(2)
        ranks = [nodes.rank(rank) for rank in range(4)]
        lost_at = time.time()
        nodes.nodes[1].process.kill()  # the kernel ends its agent and its ranks with it
        code, _, stderr = nodes.nodes[0].end()
        assert seconds_to_the_cause(nodes, lost_at) <= 15
    assert code == 1
    assert f"node 1 ({HOST}, 127.0.0.1) was lost: its connection closed" in stderr
    assert (cause(nodes)["category"], cause(nodes)["nodes"]) == ("node", [HOST])
    wait_until_gone(ranks)


def test_a_lost_head_is_named_and_nobody_goes_on(tmp_path: Path, endless: dict[str, Any]) -> None:
    with Nodes(tmp_path, endless) as nodes:
        nodes.start_all()
        nodes.wait_for_step(2)
        ranks = [nodes.rank(rank) for rank in range(4)]
        lost_at = time.time()
        nodes.nodes[0].process.kill()
        code, _, stderr = nodes.nodes[1].end()
        assert seconds_to_the_cause(nodes, lost_at) <= 15
    assert code == 1
    assert f"the head, node 0 ({HOST}, 127.0.0.1) was lost" in stderr
    assert cause(nodes)["category"] == "node"
    assert attempt(nodes)["outcome"] == "failed"
    wait_until_gone(ranks)


def test_a_stopped_rank_on_another_node_is_the_late_one(
    tmp_path: Path, endless: dict[str, Any]
) -> None:
    endless["run"]["timeout_seconds"] = 20.0
    with Nodes(tmp_path, endless) as nodes:
        nodes.start_all()
        nodes.wait_for_step(2)
        nodes.rank(2).send(signal.SIGSTOP)
        ended = nodes.end()
    for code, _, stderr in ended.values():
        assert code == 1
        assert f"rank 2 on {HOST} made no progress for" in stderr
        assert "its process is stopped" in stderr
    (late,) = json.loads(nodes.logs.watchdog.read_text())["late"]
    assert (late["rank"], late["state"]) == (2, "T")
    assert cause(nodes)["category"] == "collective timeout"


def test_a_signal_to_one_node_stops_all_with_one_checkpoint(
    tmp_path: Path, endless: dict[str, Any]
) -> None:
    with Nodes(tmp_path, endless) as nodes:
        nodes.start_all()
        nodes.wait_for_step(2)
        nodes.nodes[1].process.send_signal(signal.SIGUSR1)
        ended = nodes.end()
    assert [code for code, _, _ in ended.values()] == [75, 75], ended
    assert "(SIGTERM or SIGUSR1); checkpoint step-" in ended[0][2]
    assert nodes.logs.failures == []
    assert (attempt(nodes)["outcome"], attempt(nodes)["exit_code"]) == ("stopped", 75)


def test_a_port_that_is_taken_in_the_last_moment_is_left_for_another(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    """The head finds a port free, and when the ranks' agent comes to use it, it isn't any more."""
    recipe["train"]["max_steps"] = 2
    with Nodes(tmp_path, recipe) as nodes:
        nodes.start(1)
        nodes.start(0, module="tests.support.port_taken")
        ended = nodes.end()
    assert [code for code, _, _ in ended.values()] == [0, 0], ended
    assert "the ranks' port was taken: trying another (1 of 3)" in ended[0][2]
    first = json.loads((nodes.run_dir.logs(1).cause).read_text())
    assert first["category"] == "port"


def test_what_differs_between_nodes_is_named_before_any_model_loads(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    other = tmp_path / "other" / "shardlaunch-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: shardlaunch\nVersion: 9.9.9\n")
    with Nodes(tmp_path, recipe) as nodes:
        nodes.start(0)
        nodes.start(1, "--set", "train.learning_rate=1.0e-3", PYTHONPATH=prefixed(other.parent))
        ended = nodes.end()
    for code, _, stderr in ended.values():
        assert code == 1
        assert f"preflight failed: node 1 ({HOST}) has recipe" in stderr
        assert f"node 1 ({HOST}) has launcher 9.9.9, node 0 has 0.1.0" in stderr
    seen = json.loads(nodes.logs.preflight.read_text())
    assert not seen["ok"]
    assert seen["seconds"] < 30
    assert [len(node["problems"]) for node in seen["nodes"]] == [0, 2]
    assert not nodes.run_dir.resolved.exists()


@needs_root
def test_a_data_cache_that_is_not_shared_is_named(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Seen from node 1, another folder lies where the head's cache should be."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "cache").mkdir()
    hide = f'mount --bind {tmp_path / "empty"} {tmp_path / "cache"} && exec "$@"'
    with Nodes(tmp_path, recipe) as nodes:
        nodes.start(0)
        nodes.start(1, before=["unshare", "--mount", "sh", "-c", hide, "sh"])
        ended = nodes.end()
    for code, _, stderr in ended.values():
        assert code == 1
        assert f"node 1 ({HOST}) does not see the head's data cache {tmp_path / 'cache'}" in stderr


@needs_root
def test_a_run_folder_that_one_node_can_not_write_is_named(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    (tmp_path / "runs").mkdir()
    read_only = f'mount --bind -r {tmp_path / "runs"} {tmp_path / "runs"} && exec "$@"'
    with Nodes(tmp_path, recipe) as nodes:
        nodes.start(0)
        nodes.start(1, before=["unshare", "--mount", "sh", "-c", read_only, "sh"])
        ended = nodes.end()
    assert [code for code, _, _ in ended.values()] == [2, 2], ended
    assert f"preflight failed: node 1 ({HOST})" in ended[0][2]
    assert "runs" in ended[0][2]


def test_a_node_that_can_not_take_part_says_why(tmp_path: Path, recipe: dict[str, Any]) -> None:
    with Nodes(tmp_path, recipe) as nodes:
        nodes.start(0)
        nodes.start(1, "--set", f"model.path={tmp_path / 'nowhere'}")
        ended = nodes.end()
    assert [code for code, _, _ in ended.values()] == [2, 2], ended
    assert f"preflight failed: node 1 ({HOST})" in ended[0][2]
    assert "nowhere" in ended[0][2]


def test_a_node_that_never_comes_is_named(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["run"]["timeout_seconds"] = 3.0
    recipe["train"]["global_batch_size"] = 12
    with Nodes(tmp_path, recipe, num_nodes=3) as nodes:
        nodes.start(0)
        nodes.start(1)
        ended = nodes.end()
    for code, _, stderr in ended.values():
        assert code == 1
        assert "node 2 did not come within 3 s" in stderr
    assert cause(nodes)["category"] == "late node"
    assert attempt(nodes)["outcome"] == "failed"


def test_a_node_without_a_head_says_what_it_met(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["run"]["timeout_seconds"] = 2.0
    with Nodes(tmp_path, recipe) as nodes:
        code, _, stderr = nodes.start(1).end()
    assert code == 1
    assert "did not reach the head 127.0.0.1" in stderr
    assert "meeting.key is not there" in stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--num-nodes", "2", "--node-rank", "2", "--head", "localhost"], "is not one of 0 to 1"),
        (["--num-nodes", "2", "--node-rank", "0"], "--head: is missing"),
        (["--num-nodes", "1", "--node-rank", "1"], "--node-rank: 1 is for several nodes"),
        (["--head", "localhost"], "--head: localhost is for several nodes"),
        (["--num-nodes", "2", "--node-rank", "1", "--head", "no.such.host"], "no.such.host"),
        (
            ["--num-nodes", "2", "--node-rank", "0", "--head", "localhost", "--processes", "3"],
            "3 ranks don't divide evenly over 2 nodes",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused(
    tmp_path: Path, recipe: dict[str, Any], options: list[str], said: str
) -> None:
    refused = launch(tmp_path, recipe, *options)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def seconds_to_the_cause(nodes: Nodes, since: float) -> float:
    """Return how long it took until the cause was on disk; all ranks are gone by then.

    The command has ended just now: soon after.
    """
    caused_at = nodes.logs.cause.stat().st_mtime
    assert time.time() - caused_at <= SECONDS_TO_THE_END
    return caused_at - since


def prefixed(folder: Path) -> str:
    return ":".join(part for part in (str(folder), os.environ.get("PYTHONPATH", "")) if part)


def wait_until_gone(ranks: list[Process]) -> None:
    deadline = time.monotonic() + 10
    while any(rank.is_alive for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)
