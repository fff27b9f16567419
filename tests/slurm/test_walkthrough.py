"""The walk-through of docs/slurm.md, command by command, on a real Slurm, to a resumed run."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.run_dir import RunDir
from tests.support.launches import compact
from tests.support.slurm_cluster import END_STATES, SlurmCluster
from tests.support.training import events

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = (REPOSITORY / "docs/slurm.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash walk\n(.*?)^```$", DOCS, re.M | re.S)
    for line in block.splitlines()
]
DEADLINE_SECONDS = 240.0


@pytest.fixture
def checkout(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> Path:
    """Return a folder like a checkout in which the quickstart trains a tiny model for longer."""
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    assets = tmp_path / "quickstart" / "assets"
    assets.mkdir(parents=True)
    (assets / "minilm").symlink_to(tiny_bert_dir)
    (assets / "topics").symlink_to(small_topics)
    text = (REPOSITORY / "recipes/quickstart.yaml").read_text(encoding="utf-8")
    text = re.sub(r"num_epochs: \d+", "num_epochs: 60", text)
    text = re.sub(r"^early_stopping:\n(  .*\n)+", "", text, flags=re.M)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text(text, encoding="utf-8")
    return tmp_path


class Walk:
    """The folder of the run on the way, and what has to be so before the next command."""

    def __init__(self, slurm: SlurmCluster, folder: Path) -> None:
        self.slurm = slurm
        self.folder = folder
        self.run_dir = RunDir(folder / "runs" / "quickstart")

    @property
    def job_id(self) -> str:
        """The number of the newest job."""
        record = json.loads(self.run_dir.job_dirs[-1].record.read_text())
        return str(record["job_id"])

    def run(self, line: str) -> str:
        """Run a command as it is written; return what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-6000:]}"
        return done.stdout

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait; a job that Slurm holds after its requeue is let go."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"no {what}: {self.slurm.log()}"
            if self.slurm.state(self.job_id) == "PENDING":
                self.slurm.start_now(self.job_id)
            time.sleep(0.1)

    def wait_for_steps(self) -> None:
        """Wait until this start of the job trains."""
        starts = len(events(self.run_dir, "start")) if self.run_dir.events.exists() else 0

        def trains() -> bool:
            metrics = self.run_dir.metrics
            if not metrics.exists() or len(events(self.run_dir, "start")) < max(1, starts):
                return False
            first = events(self.run_dir, "start")[-1]["resumed_from"]
            return f'"step":{first + 3},' in compact(metrics)

        self.wait_for(trains, "step")


def test_every_command_does_what_is_said(slurm: SlurmCluster, checkout: Path) -> None:
    walk = Walk(slurm, checkout)
    waits = {
        "scancel": walk.wait_for_steps,
        "launcher logs": lambda: walk.wait_for(
            lambda: len(events(walk.run_dir, "start")) == 2, "second start"
        ),
        "launcher stop": walk.wait_for_steps,
    }
    printed: dict[str, list[str]] = {}
    for line in COMMANDS:
        verb = " ".join(line.split()[:2])
        for prefix, wait in waits.items():
            if line.startswith(prefix):
                wait()
        if verb == "launcher submit" and len(printed.get(verb, [])) == 2:
            walk.wait_for(lambda: slurm.state(walk.job_id) in END_STATES, "end of the first job")
        printed.setdefault(verb, []).append(walk.run(line))
    dry, first, second = printed["launcher submit"]
    assert "#SBATCH --nodes=2\n" in dry
    assert "submitted job" in first
    assert "submitted job" in second
    assert "finished" in printed["launcher status"][-1]
    assert "quickstart" in printed["launcher runs"][0]
    starts = events(walk.run_dir, "start")
    assert [start["world_size"] for start in starts] == [4, 4, 4]
    assert 0 == starts[0]["resumed_from"] < starts[1]["resumed_from"] < starts[2]["resumed_from"]
    assert walk.run_dir.report.exists()
    assert list(walk.run_dir.export.glob("*.safetensors"))


def test_the_walk_says_what_every_verb_of_a_job_does() -> None:
    verbs = {line.split()[1] for line in COMMANDS if line.startswith("launcher ")}
    assert verbs == {"doctor", "submit", "status", "logs", "stop", "runs", "report"}
    assert "make assets" in DOCS
    assert "\nassets:" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
