"""Several "nodes" side by side on this host: the real command, once for each node rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launcher.process import Process
from launcher.run_dir import LogDir, RunDir
from tests.support.forkserver import ForkedProcess, can_fork
from tests.support.launches import DEADLINE_SECONDS, LAUNCHER, Running, compact
from tests.support.training import run_folder, write_recipe


class Node:
    """One running `launcher run --num-nodes N --node-rank I`."""

    def __init__(self, process: Running) -> None:
        self.process = process

    def end(self, seconds: float = DEADLINE_SECONDS) -> tuple[int, str, str]:
        """Wait for its end; return exit code, standard output and standard error."""
        stdout, stderr = self.process.communicate(timeout=seconds)
        assert self.process.returncode is not None
        return self.process.returncode, stdout, stderr


class Nodes:
    """All nodes of one launch; those still running are ended with the block."""

    def __init__(self, folder: Path, recipe: dict[str, Any], num_nodes: int = 2) -> None:
        self.run_dir: RunDir = run_folder(recipe)
        self.recipe = write_recipe(folder, recipe)
        self.num_nodes = num_nodes
        self.nodes: dict[int, Node] = {}

    def start(
        self,
        node_rank: int,
        *options: str,
        before: Sequence[str] = (),
        module: str = "launcher.cli",
        namespace: str = "",
        **variables: str,
    ) -> Node:
        """Start one node; `before` goes in front of its command, as `unshare --mount` would.

        With that, or with variables that a fork can't have, it is executed; else it is a fork, in
        the `namespace`, of what `module` runs.
        """
        place = ["--num-nodes", str(self.num_nodes), "--node-rank", str(node_rank)]
        head = [] if "--head" in options else ["--head", "127.0.0.1"]
        words = ["run", str(self.recipe), *place, *head, *options]
        environment = os.environ | variables
        if before or not can_fork(environment):
            process: Running = subprocess.Popen(
                [*before, LAUNCHER, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,
            )
        else:
            command = [sys.executable, "-m", module, *words]
            process = ForkedProcess(command, environment, namespace=namespace)
        self.nodes[node_rank] = Node(process)
        return self.nodes[node_rank]

    def start_all(self, *options: str) -> Nodes:
        """Start all nodes; the head last, as it may happen."""
        for node_rank in reversed(range(self.num_nodes)):
            self.start(node_rank, *options)
        return self

    @property
    def logs(self) -> LogDir:
        """The logs of the newest attempt."""
        return self.run_dir.launches[-1]

    def rank(self, rank: int) -> Process:
        """Return the process of a rank, by its heartbeat."""
        found = Process.find(json.loads(self.logs.heartbeat(rank).read_text())["pid"])
        assert found is not None
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; fail with what a node printed if it ends before."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            for node in self.nodes.values():
                assert node.process.poll() is None, node.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        """Wait until rank 0 has recorded that many steps."""
        metrics = self.run_dir.metrics
        self.wait_for(lambda: metrics.exists() and f'"step":{step},' in compact(metrics))

    def end(self, seconds: float = DEADLINE_SECONDS) -> dict[int, tuple[int, str, str]]:
        """Wait for all; return exit code, standard output and error of each, by node rank."""
        return {rank: node.end(seconds) for rank, node in sorted(self.nodes.items())}

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.process.kill()
                node.process.communicate()
