"""The walk-through of docs/slurm.md, command by command, on a real Slurm, to a resumed run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.run_dir import RunDir
from tests.support.documented import run_line
from tests.support.jobs import REPOSITORY, SubmittedRun
from tests.support.slurm_cluster import END_STATES, SlurmCluster
from tests.support.training import events

DOCS = (REPOSITORY / "docs/slurm.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash walk\n(.*?)^```$", DOCS, re.M | re.S)
    for line in block.splitlines()
]


@pytest.fixture
def checkout(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> Path:
    """Return a folder like a checkout in which the quickstart trains a tiny model for longer."""
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    assets = tmp_path / "quickstart" / "assets"
    assets.mkdir(parents=True)
    (assets / "minilm").symlink_to(tiny_bert_dir)
    (assets / "topics").symlink_to(small_topics)
    text = (REPOSITORY / "recipes/quickstart.yaml").read_text(encoding="utf-8")
    text = re.sub(r"num_epochs: \d+", "num_epochs: 30", text)
    text = re.sub(r"^early_stopping:\n(  .*\n)+", "", text, flags=re.M)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_every_command_does_what_is_said(
    slurm: SlurmCluster, checkout: Path, deepspeed_ops: None
) -> None:
    job = SubmittedRun(slurm, RunDir(checkout / "runs" / "quickstart"))
    waits = {
        "scancel": lambda: job.wait_for_start(1),
        "launcher logs": lambda: job.wait_for(
            lambda: len(events(job.run_dir, "start")) == 2, "second start"
        ),
        "launcher stop": lambda: job.wait_for_start(2),
    }
    printed: dict[str, list[str]] = {}
    for line in COMMANDS:
        verb = " ".join(line.split()[:2])
        for prefix, wait in waits.items():
            if line.startswith(prefix):
                wait()
        if verb == "launcher submit" and len(printed.get(verb, [])) == 2:
            job.wait_for(lambda: slurm.state(job.job_id) in END_STATES, "end of the first job")
        printed.setdefault(verb, []).append(run_line(line, checkout))
    dry, first, second = printed["launcher submit"]
    assert "#SBATCH --nodes=2\n" in dry
    assert "submitted job" in first
    assert "submitted job" in second
    assert "data as prepared before" in second
    assert "data as prepared before" not in first
    assert "finished" in printed["launcher status"][-1]
    assert "quickstart" in printed["launcher runs"][0]
    starts = events(job.run_dir, "start")
    assert [start["world_size"] for start in starts] == [4, 4, 4]
    assert 0 == starts[0]["resumed_from"] < starts[1]["resumed_from"] < starts[2]["resumed_from"]
    assert job.run_dir.report.exists()
    assert list(job.run_dir.export.glob("*.safetensors"))


def test_the_walk_says_what_every_verb_of_a_job_does() -> None:
    verbs = {line.split()[1] for line in COMMANDS if line.startswith("launcher ")}
    assert verbs == {"doctor", "submit", "status", "logs", "stop", "runs", "report"}
    assert "make assets" in DOCS
    assert "\nassets:" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
