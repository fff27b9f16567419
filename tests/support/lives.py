"""A run of seconds on two nodes, and the same run when nothing happens to it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run_dir import RunDir
from tests.faults.setting import assert_same_run, resumed_from
from tests.support.jobs import SubmittedRun, submit_run
from tests.support.slurm_cluster import SlurmCluster
from tests.support.training import base_recipe, events, run_folder, train
from tests.support.wandb_file import run_ids

MAX_STEPS = 200
INTERVAL = MAX_STEPS // 5


@dataclass(frozen=True)
class Lives:
    """Submits runs of a tiny model with dropout, evaluations, checkpoints and offline wandb."""

    model: Path
    topics: Path
    root: Path
    """Of what all of them share: the prepared data and the uninterrupted run."""

    def recipe(self, folder: Path, **sections: Any) -> dict[str, Any]:
        """Return the recipe of such a run on two nodes, one rank on each."""
        base = base_recipe(
            folder,
            self.model,
            "sequence-classification",
            self.topics / "train.jsonl",
            run={"name": "life"},
            data={
                "validation": [{"path": str(self.topics / "validation.jsonl")}],
                "cache_dir": str(self.root / "cache"),
            },
            train={"max_steps": MAX_STEPS, "micro_batch_size": 2, "learning_rate": 1.0e-3},
            evaluate={"every_steps": INTERVAL, "micro_batch_size": 8},
            checkpoint={"every_steps": INTERVAL},
            logging={"wandb": {"project": "tests", "mode": "offline"}},
            cluster={"num_nodes": 2, "cpu_ranks": 1},
        )
        for name, values in sections.items():
            base[name] = {**base.get(name, {}), **values}
        return base

    def submit(self, slurm: SlurmCluster, folder: Path, **sections: Any) -> SubmittedRun:
        """Submit one; its ranks compute with one thread, as forked ones do: sums are the same."""
        site = folder / "site.yaml"
        site.write_text('environment: {OMP_NUM_THREADS: "1"}\n')
        recipe = self.recipe(folder, **sections)
        return submit_run(slurm, folder, recipe, "--site", str(site))

    @functools.cache  # noqa: B019 - it lives as long as the tests
    def uninterrupted(self) -> RunDir:
        """Return the folder of the same run on two ranks of one node, which nothing happens to."""
        recipe = self.recipe(self.root, logging={"wandb": None}, cluster={"num_nodes": 1})
        train(recipe, self.root, 2)
        return run_folder(recipe)

    def assert_resumed(self, job: SubmittedRun) -> None:
        """One curve, one wandb run, and a saved step is the one that was gone on from."""
        assert_same_run(job.run_dir, self.uninterrupted())
        assert resumed_from(job.run_dir) > 0
        assert {start["world_size"] for start in events(job.run_dir, "start")} == {2}
        # A start that Slurm kills may leave a file that wandb hadn't written anything into yet.
        files = [path for path in job.run_dir.wandb.rglob("*.wandb") if path.stat().st_size]
        assert files
        assert len(set.union(*(run_ids(path) for path in files))) == 1
