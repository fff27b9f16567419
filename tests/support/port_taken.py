"""The launcher on a head whose first free port is taken before the ranks come to use it."""

from __future__ import annotations

import socket

from launcher.cli import main
from launcher.cluster.nodes import head


def first_port_taken() -> None:
    """Let the first port that the head finds free be one that somebody listens at."""
    taken = socket.create_server(("", 0))
    ports = [taken.getsockname()[1]]
    free_port = head.free_port
    head.free_port = lambda: ports.pop() if ports else free_port()
    main()


if __name__ == "__main__":
    first_port_taken()
