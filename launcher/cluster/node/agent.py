"""`accelerate launch` as a child: its command, its environment, its life tied to this process."""

from __future__ import annotations

import io
import math
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ruamel.yaml import YAML

from launcher.cluster.node.compile_caches import (
    caches_here,
    clear_dead_locks,
    extensions_folder,
)
from launcher.cluster.node.devices import visible_gpus
from launcher.cluster.node.share import Share
from launcher.files.read import read_record
from launcher.files.write import open_emptied, replace_text
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import LogDir, RunDir
from launcher.world import DEADLINE_VARIABLE, LOGS_VARIABLE

BIN = Path(sys.executable).parent
LEAST_GRACE_SECONDS = 120
MOST_STOP_SECONDS = 86_400.0
RANK_MODULE = "launcher.train"
"""What each rank runs; benchmarks put ranks there that only meet."""
FORWARDED = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What the agent passes on to the ranks; of SIGUSR1 it would die otherwise, orphaning them."""
OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
"""Variables that the agent sets for its ranks: those of a job around this one are not theirs."""


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of all nodes find each other."""

    port: int
    address: str = "127.0.0.1"
    """Of the node of rank 0, as this node reaches it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What this node's ranks need to know of its network."""


def start_agent(
    resolved: ResolvedRun,
    run_dir: RunDir,
    logs: LogDir,
    share: Share,
    meeting: Meeting,
    deadline: float | None,
) -> subprocess.Popen[bytes]:
    """Start this node's agent, which starts its ranks; what it prints goes to its launch log.

    `deadline`: when the launch has to be over, in monotonic seconds of this host.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(run_dir.accelerate)]
    command += ["--main_process_port", str(meeting.port)]
    if share.num_nodes > 1:
        command += ["--main_process_ip", meeting.address, "--machine_rank", str(share.node_rank)]
    command += ["-m", RANK_MODULE, str(run_dir.resolved), *resolved.consent.options()]
    grace = grace_seconds(run_dir)
    environment = environment_for(share.ranks_per_node) | {
        **meeting.environment,
        **caches_here(),
        LOGS_VARIABLE: str(logs.root),
        # Read by torch.distributed.run from 2.12 on. Signalled itself, the agent otherwise kills
        # the ranks after 30 s; signals to this process go to the ranks alone.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(grace),
        "PET_SIGNALS_TO_HANDLE": FORWARDED,
        # Whole minutes, for process groups that DeepSpeed makes with a timeout of its own.
        "DEEPSPEED_TIMEOUT": str(math.ceil(resolved.recipe.run.timeout_seconds / 60)),
    }
    if deadline is not None:
        environment[DEADLINE_VARIABLE] = str(deadline)
    dead_locks = clear_dead_locks(extensions_folder(environment))
    with open_emptied(share.launch_log(logs)) as log:
        log.write(
            f"grace: {grace} s from a stop signal to the end of a step and its checkpoint;"
            " whoever stops this launch should wait as long before a kill.\n"
        )
        log.writelines(
            f"removed {path}: the process that compiled there is gone.\n" for path in dead_locks
        )
        log.flush()
        return start_tied(command, environment, log)


def start_tied(
    command: Sequence[str], environment: dict[str, str], log: TextIO | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that ends when this one does, and that Ctrl-C doesn't reach by itself."""
    tied = [sys.executable, "-m", "launcher.cluster.node.tied", str(os.getpid())]
    return subprocess.Popen([*tied, *command], env=environment, stderr=log, start_new_session=True)


def grace_seconds(run_dir: RunDir) -> int:
    """Return how long a stop may take: what a step and a save took lately, thrice, and a margin."""
    timings = read_record(run_dir.timings)
    needed = sum(timings.number(name) or 0.0 for name in ("step_seconds", "save_seconds"))
    if not 0.0 <= needed < MOST_STOP_SECONDS:
        needed = 0.0  # not what a launch has measured
    return max(LEAST_GRACE_SECONDS, math.ceil(3 * needed + 30))


def accelerate_config(resolved: ResolvedRun, run_dir: RunDir, num_nodes: int) -> dict[str, Any]:
    """Return the derived `accelerate launch` config: the user's own defaults play no part.

    It is the same on all nodes; what differs between them is given on the command line.
    """
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "deepspeed_config_file": str(run_dir.ds_config),
            "zero3_init_flag": resolved.zero_stage == 3,
            # One agent on each node, started by us; the others would go from node to node by ssh.
            "deepspeed_multinode_launcher": "standard",
        },
        "num_processes": resolved.world_size,
        "num_machines": num_nodes,
        "machine_rank": 0,
        "main_training_function": "main",
        "use_cpu": False,
        "same_network": True,
        "rdzv_backend": "static",
    }


def write_accelerate_config(resolved: ResolvedRun, run_dir: RunDir, num_nodes: int = 1) -> None:
    """Write the derived config where the agent reads it."""
    text = io.StringIO()
    YAML().dump(accelerate_config(resolved, run_dir, num_nodes), text)
    replace_text(run_dir.accelerate, text.getvalue())


def environment_for(ranks_per_node: int) -> dict[str, str]:
    """Return this environment with what DeepSpeed and torch need of it."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_RANKS}
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    # DeepSpeed compiles with the ninja it finds: this installation's, also without an activated
    # environment. Another version would compile everything anew.
    environment["PATH"] = os.pathsep.join((str(BIN), environment.get("PATH", os.defpath)))
    if not visible_gpus():
        environment["DS_ACCELERATOR"] = "cpu"
        threads = max(1, len(os.sched_getaffinity(0)) // ranks_per_node)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment


def free_port() -> int:
    """Return a TCP port that nobody listens at now; by the time it is used, somebody may."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
