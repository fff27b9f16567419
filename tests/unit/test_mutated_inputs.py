"""Whatever is written or typed, a command soon ends with 0 or 2, says why, and changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COUNT = os.environ.get("MUTATIONS", "40")


def test_a_few_by_a_fixed_seed() -> None:
    """In a process that has nothing heavy loaded, which is what is measured. More: `make fuzz`."""
    command = [sys.executable, "-m", "tests.support.mutated_inputs", COUNT, "--seed", "7"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{COUNT} of {COUNT} held" in done.stdout
