"""A process that ends when its parent does: `python -m launcher.cluster.node.tied PARENT COMMAND`.

Whatever becomes of the parent, kill -9 included, the kernel then kills this process. It becomes the
command, which keeps the tie.
"""

from __future__ import annotations

import os
import sys

from launcher.process import die_with_parent
from launcher.world import AGENT_VARIABLE


def main() -> None:
    """Tie this process to its parent and become the command."""
    parent, *command = sys.argv[1:]
    die_with_parent(int(parent))
    os.environ[AGENT_VARIABLE] = str(os.getpid())  # the ranks below are tied to it in turn
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
