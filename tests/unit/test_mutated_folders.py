"""Whatever lies in a run folder, whoever reads it says something sensible, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from launcher.cluster.follow.runs import list_runs
from tests.support.checkpoints import commit
from tests.support.followed import write_attempt, write_beat, write_cause, write_job
from tests.support.mutate import mutate
from tests.support.readers import read_all
from tests.support.sample_run import write_sample_run

NUM_MUTATIONS = int(os.environ.get("MUTATIONS", "40"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two run folders, each with everything that launches and jobs leave."""
    root = tmp_path_factory.mktemp("template") / "runs"
    for name in ("one", "other"):
        run_dir = write_sample_run(root / name, "failed")
        best = {"step": 5, "metric": "validation/loss", "value": 0.5}
        run_dir.summary.write_text(json.dumps({"outcome": "finished", "step": 57, "best": best}))
        for number in (2, 3):
            logs = write_attempt(run_dir, number, outcome="failed", hours=1.0)
            write_beat(logs, 0, "n1")
            write_cause(logs, "rank 1 was killed", category="killed", nodes=["n1"], rank=1)
            logs.rank(0).write_text("Loading\r50%\rdone\nTraceback\n")
            logs.failure(1).write_text(json.dumps({"rank": 1, "time": 1.0, "message": "x"}))
        write_job(run_dir).ended.write_text('{"requeued": true, "checkpoint": 2}\n')
        folder = run_dir.checkpoint(5)
        folder.mkdir(parents=True)
        (folder / "rank-00000.safetensors").write_bytes(b"weights")
        commit(folder, step=5)
        run_dir.lock.write_text("{}")
    return root


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode(errors="surrogateescape"))
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("seed", range(NUM_MUTATIONS // 10))
def test_nothing_is_a_traceback_or_touches_others(
    seed: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # Slurm's commands wait for a controller that isn't there
    chance = random.Random(seed)
    for number in range(10):
        runs = tmp_path / str(number) / "runs"
        shutil.copytree(template, runs, symlinks=True)
        said = [mutate(runs / "one", chance) for _ in range(chance.choice((1, 1, 3)))]
        before = digest_of(runs / "other")
        try:
            read_all(runs / "one")
        except Exception as error:
            raise AssertionError(f"seed {seed}, {number}: {said}") from error
        assert digest_of(runs / "other") == before, said
        assert "other" in list_runs(runs)
        shutil.rmtree(tmp_path / str(number))


def test_an_untouched_folder_is_refused_nothing(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "runs", symlinks=True)
    assert read_all(tmp_path / "runs" / "one") == []
