"""Which ranks of a run are this node's, and which of its files speak of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.run_dir import LogDir


@dataclass(frozen=True)
class Share:
    """The part of a run that one node carries; by default all of it."""

    ranks_per_node: int
    num_nodes: int = 1
    node_rank: int = 0

    @property
    def ranks(self) -> range:
        """The ranks of this node."""
        first = self.node_rank * self.ranks_per_node
        return range(first, first + self.ranks_per_node)

    @property
    def world_size(self) -> int:
        """The ranks of all nodes."""
        return self.num_nodes * self.ranks_per_node

    def launch_log(self, logs: LogDir) -> Path:
        """Return where this node's agent prints."""
        return logs.launch_on(self.node_rank)

    def failures(self, logs: LogDir) -> list[Path]:
        """Return the failure files of this node's ranks."""
        return [path for rank in self.ranks if (path := logs.failure(rank)).exists()]

    def heartbeats(self, logs: LogDir) -> list[Path]:
        """Return the heartbeat files of this node's ranks."""
        return [path for rank in self.ranks if (path := logs.heartbeat(rank)).exists()]
