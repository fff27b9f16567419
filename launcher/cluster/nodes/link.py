"""Starts one node's part of the link test, in a process of its own: it needs torch."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

from launcher.cluster.node.agent import environment_for

MODULE = "launcher.train.link_test"


class LinkTest:
    """One running link test."""

    def __init__(
        self,
        address: str,
        port: int,
        node_rank: int,
        num_nodes: int,
        seconds: float,
        environment: dict[str, str],
        listener: socket.socket | None = None,
    ) -> None:
        command = [sys.executable, "-m", MODULE, address, str(port), str(node_rank), str(num_nodes)]
        command += [str(seconds)]
        descriptors: tuple[int, ...] = ()
        if listener is not None:
            descriptors = (listener.fileno(),)
            command += ["--listen", str(listener.fileno())]
        self._process = subprocess.Popen(
            command,
            env=environment_for(1) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=descriptors,
        )

    def result(self, seconds: float) -> dict[str, Any]:
        """Return what it found; after that time it is ended, and that is what it found."""
        try:
            printed, said = self._process.communicate(timeout=max(0.1, seconds))
        except subprocess.TimeoutExpired:
            self.end()
            return {"error": "the process was not ready in time", "late": [-1]}
        try:
            found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        except (ValueError, IndexError):
            last = said.strip().splitlines()[-1:] or [f"exit code {self._process.returncode}"]
            return {"error": last[0][:300], "late": []}
        return found

    def end(self) -> None:
        """End it now, if it still runs."""
        self._process.kill()
        self._process.communicate()


def open_listener() -> tuple[socket.socket, int]:
    """Return a socket that listens at a port which the kernel chose, and that port."""
    listener = socket.create_server(("", 0), backlog=1024)
    return listener, int(listener.getsockname()[1])
