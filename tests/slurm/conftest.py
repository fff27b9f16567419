"""One cluster for all tests of this tier; each test finds its nodes idle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lives import Lives
from tests.support.projects import MakeProject, Project, make_project
from tests.support.slurm_cluster import SlurmCluster, why_no_slurm


@pytest.fixture(autouse=True)
def _operators_before_ranks() -> None:
    """Here only the tests that start real ranks need them, and ask for `deepspeed_ops`."""


@pytest.fixture(scope="session")
def first_job_id(worker_id: str) -> int:
    """The number of the first job of this worker's cluster: no two clusters share job numbers."""
    return 1 + 200 * int(worker_id.removeprefix("gw").replace("master", "0"))


@pytest.fixture(scope="session")
def slurm_cluster(first_job_id: int) -> Iterator[SlurmCluster]:
    """A Slurm of four nodes with real daemons."""
    why_not = why_no_slurm()
    if why_not:
        pytest.skip(f"NO SLURM HERE: {why_not}")
    with SlurmCluster(4, first_job_id=first_job_id) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The same, as Slurm's commands find it; a test's jobs end with it."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    yield slurm_cluster
    slurm_cluster.cancel_all()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared data for all projects: they are tokenised once."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def project(
    tmp_path: Path, slurm: SlurmCluster, tiny_bert_dir: Path, small_topics: Path, prepared: Path
) -> MakeProject:
    """Make a folder that jobs of the stand-in are submitted from."""

    def make(name: str = "project", site: str = "", **sections: Any) -> Project:
        rows = small_topics / "train.jsonl"
        sections["data"] = {"cache_dir": str(prepared)} | sections.get("data", {})
        return make_project(tmp_path / name, tiny_bert_dir, rows, site=site, **sections)

    return make


@pytest.fixture(scope="session")
def lives(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_bert_dir: Path,
    small_topics: Path,
    deepspeed_ops: None,
) -> Lives:
    """Runs to submit, and the same run without anything that happens to it."""
    return Lives(tiny_bert_dir, small_topics, tmp_path_factory.mktemp("lives"))
