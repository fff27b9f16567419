"""How long training waits for a save: the launcher's, DCP's and Trainer's, beside a memory copy.

    python benchmarks/save_stall.py

All of them save the same model (MiniLM, float32, AdamW; all of it, then LoRA on it) onto one slow
disk (50 MB/s, see stall/throttle.py), in turn, in one run. Before or after every save the same
tensors are copied within memory: the floor, and the other half of each pair. Every checkpoint is
read back by its own loader and compared with what was in memory, else there is no result. Takes
about ten minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.stall.bench import run_case
from benchmarks.stall.report import case_table
from quickstart import assets

LORA = "method={type: lora, rank: 8, alpha: 16, target_modules: all-linear}"
CASES = {"full": ("All of MiniLM is trained", []), "lora": ("LoRA (r=8) on MiniLM", [LORA])}
CALM_LOAD = 1.0


def main() -> None:
    """Measure and print one Markdown table a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="pairs a method; report 7 or more")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rate", type=float, default=50e6, help="bytes a second of the slow disk")
    parser.add_argument("--scratch", type=Path, help="folder to write in; absent: the system's own")
    parser.add_argument("--anyway", action="store_true", help="measure though others are at work")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    if load > CALM_LOAD and not options.anyway:
        raise SystemExit(
            f"the load average is {load:.2f}: others are at work here, and would be measured too."
            " Wait, or add --anyway."
        )
    assets.minilm()
    assets.topics()
    for name in options.cases:
        title, overrides = CASES[name]
        scratch = tempfile.TemporaryDirectory(dir=options.scratch, ignore_cleanup_errors=True)
        with scratch as folder:
            case = run_case(title, overrides, options.rate, options.rounds, Path(folder))
        print(case_table(case))
    print(
        f"\nMedians of {options.rounds} pairs in ABBA order; a disk of {options.rate / 1e6:g} MB/s;"
        f" {os.cpu_count()} cores, load average (1 minute) {load:.2f} before and"
        f" {os.getloadavg()[0]:.2f} after. Every checkpoint was read back and equals what was in"
        " memory."
    )


if __name__ == "__main__":
    main()
