"""How long a user waits for `launcher check`: beside bare Python and beside a peer's command line.

    python benchmarks/check_latency.py

Whole processes, one after another, in turn (A B C, C B A, ...), so that a machine that slows down
slows all of them; medians of the times and of the ratios within a round.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 9
BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parent.parent
FLOOR = "bare Python"
COMMANDS = {
    FLOOR: [sys.executable, "-c", "pass"],
    "Python and ruamel.yaml": [sys.executable, "-c", "import ruamel.yaml"],
    "launcher check": [str(BIN / "launcher"), "check", "recipes/quickstart.yaml"],
    "accelerate launch --help": [str(BIN / "accelerate"), "launch", "--help"],
}


def seconds(command: list[str]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print one line a command."""
    for command in COMMANDS.values():
        seconds(command)  # byte code and disk cache
    rounds: list[dict[str, tuple[float, float]]] = []
    for number in range(ROUNDS):
        names = list(COMMANDS) if number % 2 == 0 else list(reversed(COMMANDS))
        rounds.append({name: seconds(COMMANDS[name]) for name in names})
    print(f"{'command':26} {'wall s':>8} {'CPU s':>8} {'x floor':>8}   of {ROUNDS} rounds, medians")
    for name in COMMANDS:
        wall = statistics.median(one[name][0] for one in rounds)
        cpu = statistics.median(one[name][1] for one in rounds)
        ratio = statistics.median(one[name][0] / one[FLOOR][0] for one in rounds)
        print(f"{name:26} {wall:8.3f} {cpu:8.3f} {ratio:8.1f}")


if __name__ == "__main__":
    main()
