"""How long nodes take to meet, by their number: node entries on this host that do nothing else.

    python benchmarks/meeting.py [--runs 5] [--most 64]

Each node is a process of its own. All start, wait for one moment, and knock at the head at once:
that is the worst case. Then they go through one barrier: each tells the head, and the head, once it
has heard all, tells each. Prints a table, and what the fitted line says of 1,024 nodes.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster.nodes.lines import Lines, Lost
from launcher.cluster.nodes.meeting import Reception, join, write_key
from launcher.cluster.nodes.placement import Placement

SIZES = (2, 4, 8, 16, 32, 64)
ASKED = 1024
DEADLINE_SECONDS = 120.0
PAUSE_SECONDS = 0.5
"""Between the last process's start and the moment when all knock."""


@dataclass(frozen=True)
class Times:
    """Of one meeting, in seconds."""

    started: float
    """From the first process's start to the barrier; mostly the start of the processes."""
    met: float
    """From when all knock to when the head has let in all."""
    barrier: float
    """From when all knock to when the head has heard all, and told all."""
    head_cpu: float
    """Processor time of the head in that time."""


def never() -> bool:
    """Nobody asks for a stop."""
    return False


def member(placement: Placement) -> None:
    """Be one node: wait, knock, tell, and hear."""
    Path(f"{placement.key_file}.ready-{placement.node_rank}").touch()
    go_file = Path(f"{placement.key_file}.go")
    while not go_file.exists():
        time.sleep(0.02)
    time.sleep(max(0.0, float(go_file.read_text()) - time.monotonic()))
    lines = join(placement, DEADLINE_SECONDS, never)
    lines.all[0].send({"kind": "answer"})
    hear(lines, 1)
    lines.close()


def hear(lines: Lines, count: int) -> None:
    """Return once that many messages have come."""
    while count:
        for found in lines.take():
            if isinstance(found, Lost):
                raise RuntimeError(str(found))
            count -= 1
        time.sleep(0.001)


def meet(num_nodes: int) -> Times:
    """Let that many nodes meet once."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("", 0)) as probe:
        key_file = Path(folder, "key")
        port = min(probe.getsockname()[1], 65_000)
        probe.close()
        write_key(key_file)
        placement = Placement(num_nodes, 0, "127.0.0.1", port, key_file)
        begun = time.monotonic()
        words = [sys.executable, __file__, "--member", str(num_nodes), str(port), str(key_file)]
        members = [subprocess.Popen([*words, str(rank)]) for rank in range(1, num_nodes)]
        reception = Reception(placement)
        while len(list(Path(folder).glob("key.ready-*"))) < len(members):
            time.sleep(0.02)
        go = time.monotonic() + PAUSE_SECONDS
        Path(folder, "go").write_text(str(go))
        Path(folder, "go").replace(f"{key_file}.go")
        time.sleep(max(0.0, go - time.monotonic()))
        cpu = time.process_time()
        reception.wait_for_all(DEADLINE_SECONDS, never)
        met = time.monotonic()
        hear(reception.lines, len(members))
        reception.lines.tell_all({"kind": "start"})
        done, cpu = time.monotonic(), time.process_time() - cpu
        for process in members:
            process.wait(DEADLINE_SECONDS)
        reception.close()
    return Times(done - begun - PAUSE_SECONDS, met - go, done - go, cpu)


def fit(values: dict[int, float]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line."""
    sizes, times = list(values), list(values.values())
    middle, mean = statistics.mean(sizes), statistics.mean(times)
    slope = sum((n - middle) * (t - mean) for n, t in values.items())
    slope /= sum((n - middle) ** 2 for n in sizes)
    return mean - slope * middle, slope


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--member", nargs=4, metavar=("NODES", "PORT", "KEY", "RANK"))
    asked = parser.parse_args()
    if asked.member:
        num_nodes, port, key, rank = asked.member
        place = Placement(int(num_nodes), 0, "127.0.0.1", int(port), Path(key))
        member(replace(place, node_rank=int(rank)))
        return
    print(f"{os.cpu_count()} cores, median of {asked.runs} runs, milliseconds")
    print("| nodes | all let in | first barrier | head's processor time | with process starts |")
    print("|---:|---:|---:|---:|---:|")
    barriers, cpus = {}, {}
    for size in (size for size in SIZES if size <= asked.most):
        runs = [meet(size) for _ in range(asked.runs)]
        medians = {
            name: 1000 * statistics.median(getattr(run, name) for run in runs)
            for name in ("met", "barrier", "head_cpu", "started")
        }
        barriers[size], cpus[size] = medians["barrier"], medians["head_cpu"]
        print(f"| {size} | " + " | ".join(f"{value:.1f}" for value in medians.values()) + " |")
    for what, values in (("first barrier", barriers), ("head's processor time", cpus)):
        start, slope = fit(values)
        at = (start + slope * ASKED) / 1000
        print(f"{what}: {start:.1f} ms + {slope:.2f} ms a node; at {ASKED} nodes {at:.1f} s")


if __name__ == "__main__":
    main()
