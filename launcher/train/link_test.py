"""One process a node that meets the others and adds up 16 MiB: does the link work, and how fast?

    python -m launcher.train.link_test ADDRESS PORT RANK WORLD_SIZE SECONDS [--listen FD]

Prints one JSON object: bytes, seconds, gigabytes_per_second; or error, and `late` (ranks that never
came). Rank 0 is given a socket that listens already, so that nobody can take its port in between.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

NUM_BYTES = 16 << 20
REPEATS = 3
ALONE_SECONDS = 10.0
"""How long an all-reduce may take, once all are there."""


def main() -> int:
    """Meet, add, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("rank", type=int)
    parser.add_argument("world_size", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--listen", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(
        asked.address, asked.port, asked.rank, asked.world_size, asked.seconds, asked.listen
    )
    sys.stdout.write(f"{json.dumps(found)}\n")
    return int("error" in found)


def measure(
    address: str, port: int, rank: int, world_size: int, seconds: float, listen: int | None
) -> dict[str, Any]:
    """Return how fast the nodes add up; or what kept them from it."""
    deadline = time.monotonic() + seconds
    late: list[int] = []
    try:
        store = TCPStore(
            address,
            port,
            world_size,
            is_master=rank == 0,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            master_listen_fd=listen,
        )
        store.set(f"here-{rank}", "1")
        late = _wait_for_all(store, world_size, deadline)
        if late:
            return {"error": "not all processes were ready in time", "late": late}
        device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=ALONE_SECONDS),
        )
        return _time_all_reduce(device, world_size)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the link is like
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}", "late": late}


def _wait_for_all(store: Store, world_size: int, deadline: float) -> list[int]:
    """Return the ranks that had not come by then."""
    late = list(range(world_size))
    while late and time.monotonic() < deadline:
        late = [rank for rank in late if not store.check([f"here-{rank}"])]
        time.sleep(0.05 if late else 0)
    return late


def _time_all_reduce(device: torch.device, world_size: int) -> dict[str, Any]:
    values = torch.ones(NUM_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(REPEATS):
        values.fill_(1.0)
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        total = float(values[-1].item())  # waits for the device
        best = min(best, time.perf_counter() - started)
        if total != world_size:
            return {"error": f"ones of {world_size} nodes added up to {total:g}", "late": []}
    # What goes over each node's link in a ring: https://github.com/NVIDIA/nccl-tests
    moved = 2 * (world_size - 1) / world_size * NUM_BYTES
    return {
        "bytes": NUM_BYTES,
        "seconds": round(best, 6),
        "gigabytes_per_second": round(moved / best / 1e9, 3),
    }


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of a communication library may still wait for somebody
