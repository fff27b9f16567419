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
from tests.support.jobs import ask
from tests.support.training import base_recipe, write_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATE = REPOSITORY / "slurm" / "train.sbatch"
ENTRY = "-m launcher.cluster.slurm.node_entry"
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
        """Run `launcher submit` here."""
        return ask(self.folder, self.recipe.name, *options)

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
    write_site(folder / "slurm", str(STAND_IN), site)
    return Project(folder, path)


def write_site(folder: Path, entry: str, site: str = "") -> Path:
    """Write a site file whose template starts something else on each node; return its path."""
    text = TEMPLATE.read_text()
    assert ENTRY in text
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "other.sbatch").write_text(text.replace(ENTRY, entry))
    path = folder / "site.yaml"
    path.write_text(f"template: other.sbatch\n{site}")
    return path
