"""Runs submitted to the Slurm of the tests, with what happens to their jobs at hand."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.process import Process
from launcher.run_dir import JobDir, RunDir
from tests.support.followed import write_job
from tests.support.launches import LAUNCHER, compact
from tests.support.slurm_cluster import END_STATES, POLL_SECONDS, SlurmCluster
from tests.support.training import events, run_folder, write_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 480.0
"""Only what hangs is waited for so long; a start on a crowded machine took 150 s."""


def ask(folder: Path, recipe: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `launcher submit` in a folder, to its end."""
    return subprocess.run(
        [LAUNCHER, "submit", recipe, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )


def submit_run(
    slurm: SlurmCluster, folder: Path, recipe: dict[str, Any], *options: str
) -> SubmittedRun:
    """Submit a recipe."""
    done = ask(folder, str(write_recipe(folder, recipe)), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return SubmittedRun(slurm, run_folder(recipe))


def submit_script(
    slurm: SlurmCluster, run_dir: RunDir, body: str, *options: str
) -> tuple[str, JobDir]:
    """Submit a script as a job of a run, with the folder that a submission writes."""
    job_dir = write_job(run_dir, None)
    job_id = slurm.sbatch(
        body, "--requeue", "--open-mode=append", f"--output={job_dir.root}/slurm-%j.log",
        f"--export=ALL,PYTHONPATH={REPOSITORY}", *options,
    )  # fmt: skip
    record = json.loads(job_dir.record.read_text()) | {"job_id": job_id}
    job_dir.record.write_text(json.dumps(record))
    return job_id, job_dir


def ended(job: JobDir) -> list[dict[str, Any]]:
    """Return what became of a job after each of its starts."""
    return [json.loads(line) for line in job.ended.read_text().splitlines()]


class SubmittedRun:
    """A run, and its newest job; a job that Slurm holds after a requeue is let go by every wait."""

    def __init__(self, slurm: SlurmCluster, run_dir: RunDir) -> None:
        self.slurm = slurm
        self.run_dir = run_dir

    @property
    def job(self) -> JobDir:
        """The folder of the newest job."""
        return self.run_dir.job_dirs[-1]

    @property
    def job_id(self) -> str:
        """The number of the newest job."""
        return str(json.loads(self.job.record.read_text())["job_id"])

    @property
    def log(self) -> str:
        """What the job has printed so far."""
        path = self.job.log(self.job_id)
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def num_requeues(self) -> int:
        """How often Slurm has started the job again."""
        return int(self.slurm.job(self.job_id).get("Restarts", "0"))

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """What is recorded of each start, the oldest first."""
        return [json.loads(logs.attempt.read_text()) for logs in self.run_dir.launches]

    def wait_for(
        self, condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Wait until something is so; show the job's log where it never is."""
        deadline = time.monotonic() + seconds
        has_ended = False
        while not condition():
            in_time = not has_ended and time.monotonic() < deadline
            assert in_time, f"no {what}: {self.slurm.log()}\n{self.log}"
            has_ended = self._look()  # the condition may have become true just before
            time.sleep(POLL_SECONDS)

    def wait_for_step(self, step: int) -> None:
        """Wait until that step is recorded."""
        self.wait_for(lambda: self._has_step(step), f"step {step}")

    def wait_for_start(self, number: int) -> None:
        """Wait until the ranks of that start, from 1, have gone on from where the last one ended.

        Until then they may not be there yet, and what asks a job to stop would end it at once.
        """

        def trains() -> bool:
            starts = events(self.run_dir, "start") if self.run_dir.events.exists() else []
            return len(starts) >= number and self._has_step(starts[-1]["resumed_from"] + 3)

        self.wait_for(trains, f"steps of start {number}")

    def wait_for_requeue(self, count: int = 1) -> None:
        """Wait until the job runs again, sooner than Slurm would have it."""
        self.wait_for(
            lambda: self.num_requeues >= count and self.slurm.state(self.job_id) == "RUNNING",
            "requeue",
        )

    def finish(self) -> None:
        """Wait until the job has completed, however often it is requeued until then."""
        self.wait_for(lambda: self.slurm.state(self.job_id) in END_STATES, "end")
        state = self.slurm.state(self.job_id)
        assert state == "COMPLETED", f"{state}: {self.log}"

    def ranks(self) -> list[Process]:
        """Return the processes of the ranks of the newest start, in order of rank."""
        beats = [json.loads(path.read_text()) for path in self.run_dir.launches[-1].heartbeats]
        found = [Process.find(beat["pid"]) for beat in sorted(beats, key=lambda one: one["rank"])]
        return [process for process in found if process is not None]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let all ranks stand still meanwhile: a wait for Slurm costs no steps then."""
        ranks = self.ranks()
        try:
            for rank in ranks:
                rank.send(signal.SIGSTOP)
            yield
        finally:
            for rank in ranks:
                rank.send(signal.SIGCONT)

    def wait_for_signal(self, *numbers: signal.Signals) -> None:
        """Wait until one of these signals has been sent to every rank that stands still."""
        self.wait_for(
            lambda: all(pending(rank.pid) & {*numbers} for rank in self.ranks()), "signal"
        )

    def _has_step(self, step: int) -> bool:
        metrics = self.run_dir.metrics
        return metrics.exists() and f'"step":{step},' in compact(metrics)

    def _look(self) -> bool:
        """Let a job go that Slurm holds after a requeue; return whether it has ended for good."""
        job = self.slurm.job(self.job_id)
        if job.get("JobState") == "PENDING" and int(job.get("Restarts", "0")):
            self.slurm.start_now(self.job_id)
        return job.get("JobState") in END_STATES


def pending(pid: int) -> set[signal.Signals]:
    """Return the signals that a process has been sent and hasn't taken yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return {number for number in signal.Signals for mask in masks if mask >> (number - 1) & 1}
