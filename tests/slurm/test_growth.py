"""Jobs whose ranks only meet, as benchmarks/slurm_meeting.py measures them: all are there."""

from __future__ import annotations

from pathlib import Path

from benchmarks.slurm_meeting import row, submit, write_site
from tests.support.slurm_cluster import SlurmCluster


def test_all_meet(slurm: SlurmCluster, tmp_path: Path, minilm_dir: Path, topics_dir: Path) -> None:
    write_site(tmp_path)
    run_dir = submit(slurm, tmp_path, 4)
    spans = row(run_dir, 4)  # raises unless every node and every rank was there
    assert spans.startswith("| 4 | ")
