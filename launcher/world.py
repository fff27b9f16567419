"""Where this process stands in the job, read from the environment once.

The variables are those of torchrun and `accelerate launch`:
https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.files.read import read_text
from launcher.run_dir import LogDir

LOGS_VARIABLE = "LAUNCHER_LOG_DIR"
DEADLINE_VARIABLE = "LAUNCHER_DEADLINE"
AGENT_VARIABLE = "LAUNCHER_AGENT_PID"


@dataclass(frozen=True)
class World:
    """The geometry of a job and this rank's place in it."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    num_nodes: int = 1
    logs: LogDir | None = None
    """Folder for this launch's logs; None where the processes were started by hand."""
    deadline: float | None = None
    """When this launch has to be over, in monotonic seconds of this host; None: no limit."""
    agent_pid: int | None = None
    """Process id of the elastic agent that started this rank; None where there is none."""

    @property
    def is_main_process(self) -> bool:
        """True on rank 0, the one rank that writes records and commits checkpoints."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> World:
        """Read RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE; without them, a world of one."""
        world_size = int(environ.get("WORLD_SIZE", "1"))
        per_node = int(environ.get("LOCAL_WORLD_SIZE", str(world_size)))
        return cls(
            rank=int(environ.get("RANK", "0")),
            local_rank=int(environ.get("LOCAL_RANK", "0")),
            world_size=world_size,
            num_nodes=max(1, world_size // per_node),
            logs=LogDir(Path(environ[LOGS_VARIABLE])) if LOGS_VARIABLE in environ else None,
            deadline=_deadline(environ),
            agent_pid=_agent_pid(environ),
        )


def _deadline(environ: Mapping[str, str]) -> float | None:
    """Return the earlier of the launch's own limit and Slurm's, on this host's monotonic clock."""
    limits = []
    if DEADLINE_VARIABLE in environ:
        limits.append(float(environ[DEADLINE_VARIABLE]))
    if environ.get("SLURM_JOB_END_TIME", "").isdigit():
        # Slurm gives wall-clock time: turned into monotonic time once, so that later changes of
        # the clock play no part.
        limits.append(time.monotonic() + int(environ["SLURM_JOB_END_TIME"]) - time.time())
    return min(limits, default=None)


def _agent_pid(environ: Mapping[str, str]) -> int | None:
    if AGENT_VARIABLE in environ:
        return int(environ[AGENT_VARIABLE])
    return os.getppid() if "TORCHELASTIC_RUN_ID" in environ else None


def host_name(environ: Mapping[str, str] = os.environ) -> str:
    """Return what people call this machine: Slurm's name for the node, else its own."""
    return environ.get("SLURMD_NODENAME") or socket.gethostname()


def has_wandb_key(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether wandb could log in: a key in the environment or in the user's netrc file."""
    if environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "api.wandb.ai" in read_text(netrc, errors="replace")
