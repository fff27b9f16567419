"""Stands before the node entry: lets a node of a job be different, then goes on as usual.

`python spoiled_entry.py START:NODE:HOW ... JOB_FOLDER`: which start of the job, from 0, on which
node; `HOW` is the name of a function below.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from launcher.cluster.nodes.placement import NUM_PORTS, port_for
from launcher.run_dir import JobDir

spoils, job_folder = sys.argv[1:-1], Path(sys.argv[-1])
run_dir = JobDir(job_folder).run_dir
entry = [sys.executable, "-m", "launcher.cluster.slurm.node_entry", str(job_folder)]


def other_version() -> list[str]:
    """This node has another launcher installed, by its metadata."""
    found = job_folder / "other" / "shardlaunch-9.9.9.dist-info"
    found.mkdir(parents=True, exist_ok=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: shardlaunch\nVersion: 9.9.9\n")
    os.environ["PYTHONPATH"] = f"{found.parent}:{os.environ.get('PYTHONPATH', '')}"
    return entry


def unwritable_run_folder() -> list[str]:
    """The run folder is mounted read-only on this node."""
    return _mounted(f"mount --bind -r '{run_dir.root}' '{run_dir.root}'")


def missing_cache() -> list[str]:
    """Another folder lies where the data were prepared."""
    empty = job_folder / "empty"
    empty.mkdir(exist_ok=True)
    return _mounted(f"mount --bind '{empty}' '{run_dir.root.parent.parent / 'cache'}'")


def busy_port() -> list[str]:
    """A stranger listens at the first port of the job."""
    return _taken(1)


def busy_ports() -> list[str]:
    """Strangers listen at all of its ports."""
    return _taken(NUM_PORTS)


def _mounted(mount: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *entry]


def _taken(count: int) -> list[str]:
    first = port_for(os.environ["SLURM_JOB_ID"])
    strangers = [socket.create_server(("", first + number)) for number in range(count)]
    sys.exit(subprocess.run(entry).returncode if strangers else 1)


here = f"{os.environ.get('SLURM_RESTART_COUNT', '0')}:{os.environ['SLURMD_NODENAME']}:"
for spoil in spoils:
    if spoil.startswith(here):
        entry = globals()[spoil.removeprefix(here)]()
os.execvp(entry[0], entry)
