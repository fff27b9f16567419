"""Run a function on several forked gloo ranks, with the environment that `accelerate launch` gives.

Forking starts ranks in a fraction of the time of a launcher: all that they import is imported once,
before the first fork. Two ranks of a tiny model then take 1.0 CPU seconds for four steps, and 5.2
where each imports for itself. The parent must have done no multi-threaded tensor work before
(`torch.set_num_threads(1)`).
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 240.0

LATE_IMPORTS = (
    "launcher.train.run",
    "launcher.train.prepare",
    "launcher.checkpoint.export",
    # What these import only where they need it. A name that a library drops costs its users time
    # again, and is found here.
    "bitsandbytes.optim",
    "datasets",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "peft.tuners.lora.bnb",
    "peft.utils.transformers_weight_conversion",
    "sklearn.metrics",
    "transformers.integrations.bitsandbytes",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.llama.modeling_llama",
    "wandb",
)


class RanksFailed(AssertionError):
    """At least one rank raised, died or outlived the deadline; carries what each printed."""


class Ranks:
    """Forked ranks while they run."""

    def __init__(self, pids: list[int], folder: tempfile.TemporaryDirectory[str]) -> None:
        self.pids = pids
        self._temporary = folder
        self.folder = Path(folder.name)

    def wait(self, deadline_seconds: float) -> list[int]:
        """Return exit statuses by rank (negative: signal); after the deadline they are killed."""
        return _wait(self.pids, deadline_seconds)

    def output(self) -> list[str]:
        """Return what each rank printed."""
        names = [f"log-{rank}" for rank in range(len(self.pids))]
        return [(self.folder / name).read_text(errors="replace") for name in names]


@cache
def import_libraries() -> None:
    """Import what ranks import, also late; and let DeepSpeed look for its operators once."""
    from deepspeed.comm.torch import build_shm_op

    _use_one_thread()
    build_shm_op()  # tries a compiler, and imports setuptools: a second on each rank
    for name in LATE_IMPORTS:
        importlib.import_module(name)
    # An engine collects garbage at its start: half a second where it looks at all that is imported.
    gc.freeze()


def start_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> Ranks:
    """Call `function(*args)` on `world_size` forked ranks, and return while they run."""
    import_libraries()
    folder = tempfile.TemporaryDirectory()
    port = _free_port()
    pids = [
        _fork(rank, world_size, port, Path(folder.name), function, args)
        for rank in range(world_size)
    ]
    return Ranks(pids, folder)


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> list[Any]:
    """Call `function(*args)` on `world_size` forked ranks; return what each returned, by rank."""
    ranks = start_ranks(world_size, function, *args)
    statuses = ranks.wait(deadline_seconds)
    if any(statuses):
        raise RanksFailed(_describe(statuses, ranks.folder))
    return [
        pickle.loads((ranks.folder / f"result-{rank}").read_bytes()) for rank in range(world_size)
    ]


def _fork(
    rank: int,
    world_size: int,
    port: int,
    folder: Path,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(folder / f"log-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        # pytest has put objects of its own here, which write elsewhere.
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        # torch makes its thread pool anew at the first use after a fork, and two threads that come
        # first together (transformers reads weights in several) find none: "Invalid thread pool".
        _use_one_thread()
        (folder / f"result-{rank}").write_bytes(pickle.dumps(function(*args)))
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _wait(children: list[int], deadline_seconds: float) -> list[int]:
    """Exit status of each child (negative: signal); when one fails the others get five seconds."""
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + deadline_seconds
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    statuses[child] = os.waitstatus_to_exitcode(status)
                    if statuses[child]:
                        deadline = min(deadline, time.monotonic() + 5)
        if time.monotonic() > deadline:
            for child in children:
                if child not in statuses:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [statuses[child] for child in children]


def _describe(statuses: list[int], folder: Path) -> str:
    parts = []
    for rank, status in enumerate(statuses):
        log = (folder / f"log-{rank}").read_text(errors="replace")
        parts.append(f"--- rank {rank}: exit status {status}\n{log[-6000:]}")
    return "\n".join(parts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
