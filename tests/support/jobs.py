"""Runs submitted to the Slurm of the tests, with what happens to their jobs at hand."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.run_dir import JobDir, RunDir
from tests.support.launches import LAUNCHER, compact
from tests.support.slurm_cluster import END_STATES, SlurmCluster
from tests.support.training import run_folder, write_recipe

DEADLINE_SECONDS = 240.0


class SubmittedRun:
    """One `launcher submit`, and the job that it made."""

    def __init__(
        self, slurm: SlurmCluster, folder: Path, recipe: dict[str, Any], *options: str
    ) -> None:
        self.slurm = slurm
        self.run_dir: RunDir = run_folder(recipe)
        command = [LAUNCHER, "submit", str(write_recipe(folder, recipe)), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        self.printed = done.stdout
        self.job: JobDir = self.run_dir.job_dirs[-1]
        self.job_id = str(json.loads(self.job.record.read_text())["job_id"])

    @property
    def log(self) -> str:
        """What the job has printed so far."""
        path = self.job.log(self.job_id)
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def num_requeues(self) -> int:
        """How often Slurm has started the job again."""
        return int(self.slurm.job(self.job_id).get("Restarts", "0"))

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is so; show the job's log where it never is."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"no {what}: {self.slurm.log()}\n{self.log}"
            time.sleep(0.1)

    def wait_for_step(self, step: int) -> None:
        """Wait until that step is recorded."""
        metrics = self.run_dir.metrics
        self.wait_for(
            lambda: metrics.exists() and f'"step":{step},' in compact(metrics), f"step {step}"
        )

    def wait_for_requeue(self, count: int = 1) -> None:
        """Wait until the job runs again, sooner than Slurm would have it."""

        def runs_again() -> bool:
            if self.num_requeues >= count and self.slurm.state(self.job_id) == "RUNNING":
                return True
            if self.slurm.state(self.job_id) == "PENDING":
                self.slurm.start_now(self.job_id)
            return False

        self.wait_for(runs_again, "requeue")

    def finish(self) -> None:
        """Wait until the job has completed."""
        state = self.slurm.wait_for_end(self.job_id, DEADLINE_SECONDS)
        assert state == "COMPLETED", f"{state}: {self.log}"

    def finish_over_requeues(self) -> None:
        """Wait until the job has completed, however often it is requeued until then."""
        self.wait_for(self._has_ended, "end")
        state = self.slurm.state(self.job_id)
        assert state == "COMPLETED", f"{state}: {self.log}"

    def _has_ended(self) -> bool:
        state = self.slurm.state(self.job_id)
        if state == "PENDING":
            self.slurm.start_now(self.job_id)
        return state in END_STATES
