"""Folders that jobs are submitted from, with a stand-in of a few lines for what a step does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run_dir import JobDir, RunDir
from tests.support.launches import LAUNCHER
from tests.support.training import base_recipe, write_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATE = REPOSITORY / "slurm" / "train.sbatch"
STAND_IN = REPOSITORY / "tests" / "slurm" / "fake_entry.py"


@dataclass(frozen=True)
class Project:
    """A folder that jobs are submitted from."""

    folder: Path
    recipe: Path

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.folder / "runs" / "bot")

    def act(self, code: str) -> None:
        """Say what the steps of all jobs do."""
        (self.folder / "runs").mkdir(exist_ok=True)
        (self.folder / "runs" / "act.py").write_text(code)

    def ask(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LAUNCHER, "submit", self.recipe.name, *options],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def submit(self, *options: str) -> tuple[str, JobDir]:
        """Submit; return the job's number and the folder of the run's newest job."""
        done = self.ask(*options)
        assert done.returncode == 0, done.stderr
        found = re.search(r"submitted job (\d+)", done.stdout)
        assert found, done.stdout
        return found[1], self.run_dir.job_dirs[-1] if self.run_dir.job_dirs else JobDir(Path())

    def seen(self, job: JobDir, start: int = 0, node: int = 0) -> dict[str, Any]:
        """Return what one node's step was given."""
        seen: dict[str, Any] = json.loads((job.root / f"seen-{start}-{node}.json").read_text())
        return seen


MakeProject = Callable[..., Project]


def make_project(
    folder: Path, model: Path, rows: Path, *, site: str = "", **sections: Any
) -> Project:
    """Make a folder with a recipe, and a site file whose template starts the stand-in."""
    recipe = base_recipe(folder, model, "sequence-classification", rows, **sections)
    recipe["run"]["name"] = "bot"
    recipe["run"]["dir"] = "runs"
    path = write_recipe(folder, recipe)
    text = TEMPLATE.read_text()
    entry = "-m launcher.cluster.slurm.node_entry"
    assert entry in text
    (folder / "slurm").mkdir()
    (folder / "slurm" / "fake.sbatch").write_text(text.replace(entry, str(STAND_IN)))
    (folder / "slurm" / "site.yaml").write_text(f"template: fake.sbatch\n{site}")
    return Project(folder, path)
