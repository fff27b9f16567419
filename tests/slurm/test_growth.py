"""Jobs whose ranks only meet, as benchmarks/slurm_meeting.py measures them: all are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.slurm_meeting import row, submit, write_site
from tests.support.slurm_cluster import SlurmCluster


@pytest.mark.parametrize("num_nodes", [2, 4])
def test_all_meet(
    num_nodes: int, slurm: SlurmCluster, tmp_path: Path, minilm_dir: Path, topics_dir: Path
) -> None:
    write_site(tmp_path)
    run_dir = submit(slurm, tmp_path, num_nodes)
    spans = row(run_dir, num_nodes)  # raises unless every node and every rank was there
    assert spans.startswith(f"| {num_nodes} | ")
