"""Which of how many nodes this one is, and where it finds the first."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.world import host_name

NUM_PORTS = 8
"""Ports tried in turn: another launch, or anything else, may have the first ones."""
FIRST_PORT = 20_000
NUM_LAUNCHES = 1_250
"""Ports end at 29,999: below those that the kernel gives to clients, from 32,768 on."""


@dataclass(frozen=True)
class Placement:
    """One node's place among those that carry a run together."""

    num_nodes: int
    node_rank: int
    head: str
    """Name or address of the node of rank 0."""
    port: int
    """First of the ports at which the head may be found."""
    key_file: Path
    """What the nodes show each other that they know; on the file system that all of them share."""
    hosts: tuple[str, ...] | None = None
    """Names of all nodes in order of rank, where they are known before the nodes meet."""
    job_id: str | None = None
    restart_count: int | None = None
    """How often Slurm has requeued the job."""

    @property
    def ports(self) -> range:
        """The ports at which the head may be found."""
        return range(self.port, self.port + NUM_PORTS)

    def name_of(self, node_rank: int) -> str:
        """Return what people call a node."""
        return f"node {node_rank}" + (f" ({self.hosts[node_rank]})" if self.hosts else "")


def port_for(text: str) -> int:
    """Return the first port for what identifies a launch; neighbouring job ids share none."""
    number = int(text) if text.isdigit() else int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
    return FIRST_PORT + NUM_PORTS * (number % NUM_LAUNCHES)


def require_head(head: str, place: str) -> None:
    """Raise an InputError if the head's name means nothing here."""
    try:
        socket.getaddrinfo(head, None)
    except OSError as error:
        raise InputError(
            Problem(
                place,
                "",
                f'"{head}" does not resolve on {host_name()} ({error.strerror or error}).',
                "Give a name or address of the first node that every node knows.",
            )
        ) from None


@dataclass(frozen=True)
class NodeOptions:
    """`--num-nodes`, `--node-rank`, `--head` and `--port`, as they were given."""

    num_nodes: int | None = None
    node_rank: int | None = None
    head: str | None = None
    port: int | None = None

    @property
    def several(self) -> bool:
        """Whether the launch is one of several nodes."""
        return self.num_nodes is not None and self.num_nodes > 1

    @property
    def overrides(self) -> list[str]:
        """Return what they say that a recipe may say otherwise."""
        return [] if self.num_nodes is None else [f"cluster.num_nodes={self.num_nodes}"]

    def check(self) -> None:
        """Raise an InputError with everything that is wrong with them."""
        problems = self._problems()
        if problems:
            raise InputError(problems)
        if self.several and self.head is not None:
            require_head(self.head, "--head")

    def _problems(self) -> list[Problem]:
        others = {"--node-rank": self.node_rank, "--head": self.head, "--port": self.port}
        if not self.several:
            return [
                Problem(
                    name,
                    "",
                    f"{value} is for several nodes.",
                    "Give --num-nodes too, or leave it out.",
                )
                for name, value in others.items()
                if value is not None
                and (self.num_nodes is None or (name == "--node-rank" and value != 0))
            ]
        assert self.num_nodes is not None
        found = []
        last = self.num_nodes - 1
        if self.node_rank is None:
            found.append(
                Problem("--node-rank", "", "is missing.", f"Give each node its own, 0 to {last}.")
            )
        elif not 0 <= self.node_rank <= last:
            message = f"{self.node_rank} is not one of 0 to {last} (--num-nodes {self.num_nodes})."
            found.append(Problem("--node-rank", "", message))
        if self.head is None:
            cure = "Name the node of rank 0 by a name or address that every node knows."
            found.append(Problem("--head", "", "is missing.", cure))
        highest = 65_536 - NUM_PORTS
        if self.port is not None and not 1_024 <= self.port <= highest:
            message = f"{self.port} is not between 1024 and {highest}."
            cure = f"It is the first of {NUM_PORTS} ports that are tried."
            found.append(Problem("--port", "", message, cure))
        return found
