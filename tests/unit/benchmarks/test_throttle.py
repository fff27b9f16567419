"""The slow disk: it sees what is written below its folder, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.stall.throttle import SlowDisk

WRITER = """
import os, shutil, sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "python.bin").write_bytes(bytes(30_000))
descriptor = os.open(folder / "calls.bin", os.O_WRONLY | os.O_CREAT)
os.write(descriptor, bytes(5_000))
os.pwrite(descriptor, bytes(4_000), 5_000)
os.writev(descriptor, [bytes(100), bytes(200)])
os.pwritev(descriptor, [bytes(50)], 0)
shutil.copyfile(folder / "python.bin", folder / "copy.bin")
print("a pipe is no disk")
"""


def test_bytes_are_counted_below_the_folder_only(tmp_path: Path) -> None:
    slow, other = tmp_path / "slow", tmp_path / "slow-but-another"
    slow.mkdir()
    other.mkdir()
    disk = SlowDisk(slow, tmp_path, 50e6)

    write(disk, other)
    assert disk.take() == 0

    write(disk, slow)
    assert disk.take() == 2 * 30_000 + 5_000 + 4_000 + 300 + 50
    assert (slow / "python.bin").stat().st_size == 30_000

    assert disk.take() == 0


def write(disk: SlowDisk, folder: Path) -> None:
    variables = [f"{name}={value}" for name, value in disk.environment.items()]
    command = ["env", *variables, sys.executable, "-c", WRITER, str(folder)]
    assert subprocess.check_output(command, text=True) == "a pipe is no disk\n"
