"""How long a Slurm job takes to its first barrier, by its number of nodes; its ranks only meet.

    python -m benchmarks.slurm_meeting [--most 32]

A real Slurm of that many nodes on this host, started as for the tests; each job is submitted and
goes through the real script, node entry, meeting, preflight and `accelerate launch`. Only the ranks
are not those of a training: they go through one barrier, write down when, and end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launcher.cluster.node import agent
from launcher.cluster.nodes import carry
from launcher.cluster.nodes.meeting import Reception
from launcher.cluster.slurm import node_entry
from launcher.run_dir import RunDir
from quickstart import assets
from tests.support.slurm_cluster import SlurmCluster

SIZES = (2, 4, 8, 16, 32, 64)
REPOSITORY = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 900.0
ENTRY = "-m launcher.cluster.slurm.node_entry"


def note(job_folder: Path, what: str) -> None:
    """Write down that something has happened now."""
    (job_folder / f"time-{what}").write_text(repr(time.time()))


def noted(job_folder: Path, what: str) -> list[float]:
    """Return when it happened, on each node that said so."""
    return sorted(float(path.read_text()) for path in job_folder.glob(f"time-{what}"))


def entry(job_folder: Path) -> int:
    """Be the node entry of a job whose ranks only meet."""
    note(job_folder, f"entry-{os.environ['SLURM_NODEID']}")

    class Noting(Reception):
        def wait_for_all(self, *arguments: Any) -> None:
            super().wait_for_all(*arguments)
            note(job_folder, "met")

    carry.Reception = Noting  # type: ignore[misc]
    agent.RANK_MODULE = "benchmarks.slurm_meeting_rank"
    os.environ["MEETING_FOLDER"] = str(job_folder)
    sys.argv = ["node_entry", str(job_folder)]
    return node_entry.main()


def write_site(folder: Path) -> None:
    """Write a site file whose script starts `entry` on each node; the rest of it is the usual."""
    text = (REPOSITORY / "slurm" / "train.sbatch").read_text()
    assert ENTRY in text
    (folder / "meeting.sbatch").write_text(text.replace(ENTRY, "-m benchmarks.slurm_meeting"))
    (folder / "site.yaml").write_text("template: meeting.sbatch\n")


def submit(slurm: SlurmCluster, folder: Path, num_nodes: int) -> RunDir:
    """Submit the quickstart on so many nodes, one rank each, and wait until all have met."""
    options = {
        "run.dir": folder / "runs",
        "run.name": f"nodes-{num_nodes}",
        "data.cache_dir": folder / "cache",
        "cluster.num_nodes": num_nodes,
        "cluster.cpu_ranks": 1,
        "train.global_batch_size": SIZES[-1],
        "train.micro_batch_size": 1,
        "run.max_restarts": 0,
    }
    launcher = Path(sys.executable).with_name("launcher")
    words = [str(launcher), "submit", "recipes/quickstart.yaml"]
    words += ["--site", str(folder / "site.yaml")]
    words += [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    subprocess.run(words, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    run_dir = RunDir(folder / "runs" / f"nodes-{num_nodes}")
    job_id = json.loads(run_dir.job_dirs[-1].record.read_text())["job_id"]
    job_folder = run_dir.job_dirs[-1].root
    try:
        slurm.wait_for(
            lambda: len(noted(job_folder, "barrier-*")) == num_nodes, DEADLINE_SECONDS, "barrier"
        )
    finally:  # ranks that end without having trained would be started again
        slurm.run("scancel", job_id)
        slurm.wait_for_end(job_id)
        slurm.wait_idle()
    return run_dir


def row(run_dir: RunDir, num_nodes: int) -> str:
    """Return one row of the table, in seconds."""
    job_folder = run_dir.job_dirs[-1].root
    entries, (met,) = noted(job_folder, "entry-*"), noted(job_folder, "met")
    preflight = json.loads(run_dir.launches[-1].preflight.read_text())
    barriers = noted(job_folder, "barrier-*")
    if len(entries) != num_nodes or len(barriers) != num_nodes or not preflight["ok"]:
        raise RuntimeError(f"{len(entries)} entries, {len(barriers)} ranks: see {job_folder}")
    spans = (
        entries[-1] - entries[0],
        met - entries[-1],
        preflight["seconds"],
        barriers[-1] - entries[0],
    )
    return f"| {num_nodes} | " + " | ".join(f"{span:.2f}" for span in spans) + " |"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=32)
    most = parser.parse_args().most
    assets.minilm(assets.FOLDER)
    assets.topics(assets.FOLDER)
    with tempfile.TemporaryDirectory(prefix="meeting-") as name:
        folder = Path(name)
        write_site(folder)
        with SlurmCluster(most) as slurm:
            os.environ["SLURM_CONF"] = str(slurm.conf)
            print(f"{os.cpu_count()} cores, seconds")
            print("| nodes | entries start | all let in | preflight | first barrier of ranks |")
            print("|---:|---:|---:|---:|---:|")
            for size in (size for size in SIZES if size <= most):
                print(row(submit(slurm, folder, size), size), flush=True)


if __name__ == "__main__":
    if "SLURM_STEP_ID" in os.environ:
        sys.exit(entry(Path(sys.argv[1])))
    main()
