"""One cluster for all tests of this tier; each test finds its nodes idle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.projects import MakeProject, Project, make_project
from tests.support.slurm_cluster import SlurmCluster, why_no_slurm


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A Slurm of four nodes with real daemons."""
    why_not = why_no_slurm()
    if why_not:
        pytest.skip(f"NO SLURM HERE: {why_not}")
    with SlurmCluster(4) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The same, as Slurm's commands find it; a test's jobs end with it."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    yield slurm_cluster
    slurm_cluster.cancel_all()


@pytest.fixture
def project(
    tmp_path: Path, slurm: SlurmCluster, tiny_bert_dir: Path, small_topics: Path
) -> MakeProject:
    """Make a folder that jobs of the stand-in are submitted from."""

    def make(name: str = "project", site: str = "", **sections: Any) -> Project:
        rows = small_topics / "train.jsonl"
        return make_project(tmp_path / name, tiny_bert_dir, rows, site=site, **sections)

    return make
