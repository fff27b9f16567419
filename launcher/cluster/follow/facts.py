"""Everything that is known of a run at one moment, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.attempts import Attempt
from launcher.cluster.follow.ahead import NextEvent
from launcher.cluster.follow.judge import OPEN, Verdict
from launcher.cluster.follow.submitted import Submitted
from launcher.cluster.slurm.queue import QueuedJob
from launcher.files.read import real
from launcher.lock import Holder
from launcher.run_dir import RunDir


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class RunState:
    """One run, now. Times are seconds, moments seconds since the epoch."""

    run_dir: RunDir
    verdict: Verdict
    attempts: tuple[Attempt, ...] = ()
    submitted: Submitted | None = None
    job: QueuedJob | None = None
    holder: Holder | None = None
    """The process that holds the run folder, while one does."""
    phase: str | None = None
    """Of rank 0, in the newest attempt."""
    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    best: Best | None = None
    tokens_per_second: float | None = None
    """Of all ranks together, as the median of the newest records; so are the seconds of a step."""
    step_seconds: float | None = None
    limit_seconds_left: float | None = None
    """Until the job's time limit, or the launch's own (`run.max_hours`)."""
    run_seconds_left: float | None = None
    """Steps left times the measured seconds of a step: evaluations and saves come on top."""
    next_event: NextEvent | None = None
    updated: float | None = None
    """When any of its files was written last."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return real(self.run_dir.root).name

    @property
    def state(self) -> str:
        """pending, running, requeued, stopped, finished, failed or lost."""
        return self.verdict.state

    @property
    def is_open(self) -> bool:
        """Whether it goes on by itself."""
        return self.state in OPEN

    @property
    def job_id(self) -> str | None:
        """Slurm's number of its newest job; None where there is none."""
        return self.submitted.job_id if self.submitted else None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it runs, or ran last."""
        if self.job is not None and self.job.nodes:
            return self.job.nodes
        return self.attempts[-1].nodes if self.attempts else ()

    @property
    def hours(self) -> float:
        """Of all attempts together."""
        return sum(attempt.hours() for attempt in self.attempts)
