"""Reads the state of runs: their files, and the queue, asked once for all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from launcher.attempts import Attempt, read_attempts
from launcher.cluster.follow.ahead import NextEvent, Settings, next_event, steps_in_epoch
from launcher.cluster.follow.facts import Best, RunState
from launcher.cluster.follow.judge import Evidence, judge
from launcher.cluster.follow.submitted import Submitted, newest_submission
from launcher.cluster.follow.tail import newest_events, newest_records
from launcher.cluster.slurm.commands import SlurmError, ask, has_slurm
from launcher.cluster.slurm.queue import QueuedJob, find_jobs
from launcher.errors import InputError, Problem
from launcher.files.read import Record, modified, read_record, read_text
from launcher.lock import holder_of
from launcher.run_dir import RunDir


@dataclass(frozen=True)
class Unreadable:
    """A run whose folder holds something that can't be made sense of."""

    run_dir: RunDir
    error: Exception

    @property
    def reason(self) -> str:
        """What went wrong, in a few words."""
        return f"{type(self.error).__name__}: {self.error}"


class Queue:
    """What Slurm says of jobs, asked at most every so often: its controller serves a whole site."""

    def __init__(self, interval_seconds: float = 5.0) -> None:
        self.answers = has_slurm()
        """Whether Slurm could be asked when it was asked last."""
        self._interval_seconds = interval_seconds
        self._known: dict[str, QueuedJob] = {}
        self._asked: dict[str, float] = {}

    def jobs(self, job_ids: Sequence[str]) -> Mapping[str, QueuedJob]:
        """Return what is known of these jobs; those that Slurm doesn't know are absent."""
        now = time.monotonic()
        never = -2 * self._interval_seconds
        due = [i for i in job_ids if now - self._asked.get(i, never) > self._interval_seconds]
        if due and has_slurm():
            found = find_jobs(due)
            self.answers = len(found) == len(due) or _is_reachable()
            for job_id in due:
                self._asked[job_id] = now
                if self.answers:
                    self._known.pop(job_id, None)
            self._known |= found
        return self._known


def _is_reachable() -> bool:
    """Tell a job that Slurm has forgotten from a controller that doesn't answer."""
    try:
        ask("scontrol", "ping")
    except SlurmError:
        return False
    return True


def read_states(run_dirs: Sequence[RunDir], queue: Queue) -> list[RunState | Unreadable]:
    """Return the state of each run; Slurm is asked once for all of them."""
    submissions = [newest_submission(run_dir) for run_dir in run_dirs]
    jobs = queue.jobs([s.job_id for s in submissions if s is not None and s.job_id is not None])
    states: list[RunState | Unreadable] = []
    for run_dir, submitted in zip(run_dirs, submissions, strict=True):
        try:
            states.append(_read_state(run_dir, submitted, jobs, has_queue=queue.answers))
        except Exception as error:  # noqa: BLE001 - one odd folder must not hide the others
            states.append(Unreadable(run_dir, error))
    return states


def read_state(run_dir: RunDir, queue: Queue) -> RunState:
    """Return the state of one run.

    Raises:
        InputError: its folder holds something that can't be made sense of.
    """
    (state,) = read_states([run_dir], queue)
    if isinstance(state, Unreadable):
        message = f"can't be read ({state.reason})."
        raise InputError(Problem(str(run_dir.root), "", message, "Look at what lies there."))
    return state


def find_run(folder: Path) -> RunDir:
    """Return the run in a folder.

    Raises:
        InputError: it is no run folder.
    """
    run_dir = RunDir(folder)
    if not run_dir.resolved.is_file():
        raise InputError(
            Problem(str(folder), "", "is not a run folder.", "Name one, such as runs/NAME.")
        )
    return run_dir


def runs_in(folder: Path) -> list[RunDir]:
    """Return the runs of a folder, the one that was written to last at the end."""
    found = [RunDir(path.parent) for path in folder.glob("*/resolved.yaml")]
    return sorted(found, key=lambda run_dir: _updated(run_dir) or 0.0)


def _read_state(
    run_dir: RunDir,
    submitted: Submitted | None,
    jobs: Mapping[str, QueuedJob],
    *,
    has_queue: bool,
) -> RunState:
    job = jobs.get(submitted.job_id) if submitted and submitted.job_id else None
    holder = holder_of(run_dir.lock)
    is_live = holder is not None or (job is not None and job.state == "RUNNING")
    attempts = read_attempts(run_dir, is_live=is_live)
    verdict = judge(
        Evidence(
            attempts,
            finished=run_dir.summary.exists(),
            held=holder is not None,
            left_lock=holder is None and run_dir.lock.exists(),
            submitted=submitted,
            job=job,
            has_queue=has_queue,
        )
    )
    records, events = newest_records(run_dir), newest_events(run_dir)
    settings, beat = Settings.of(_recipe(run_dir)), _heartbeat(run_dir)
    step = max(records.train.integer("step") or 0, beat.integer("step") or 0)
    total = events.start.integer("total_steps") or settings.max_steps
    left = max(0, total - step) if total else None
    state = RunState(
        run_dir,
        verdict,
        attempts=tuple(attempts),
        submitted=submitted,
        job=job,
        holder=holder,
        phase=beat.text("phase"),
        step=step,
        total_steps=total,
        loss=records.train.number("train/loss"),
        validation_loss=records.evaluation.number("validation/loss"),
        best=_best(run_dir, events.best, settings.monitor),
        tokens_per_second=records.tokens_per_second,
        step_seconds=records.step_seconds,
        run_seconds_left=None
        if left is None or records.step_seconds is None
        else left * records.step_seconds,
        updated=_updated(run_dir),
    )
    if not state.is_open:
        return state
    return replace(
        state,
        limit_seconds_left=_limit_left(job, settings, attempts),
        next_event=_ahead(state, settings, events.start),
    )


def _ahead(state: RunState, settings: Settings, start: Mapping[str, Any]) -> NextEvent | None:
    if state.total_steps is None:
        return None
    data = read_record(state.run_dir.data_report)
    per_epoch = steps_in_epoch(start, data, settings)
    return next_event(settings, state.step, state.total_steps, per_epoch, state.step_seconds)


def _limit_left(
    job: QueuedJob | None, settings: Settings, attempts: Sequence[Attempt]
) -> float | None:
    if job is not None:
        return job.time_left_seconds
    started = attempts[-1].started if attempts else None
    if settings.max_hours is None or started is None:
        return None
    return started + 3600 * settings.max_hours - time.time()


def _best(run_dir: RunDir, event: Record, monitor: str) -> Best | None:
    said = read_record(run_dir.summary).record("best")
    metric = said.text("metric")
    if metric is None:
        metric, value, step = monitor, event.number(monitor), event.integer("step")
    else:
        value, step = said.number("value"), said.integer("step")
    return None if value is None or step is None else Best(metric, value, step)


def _heartbeat(run_dir: RunDir) -> Record:
    launches = run_dir.launches
    return read_record(launches[-1].heartbeat(0)) if launches else Record()


def _updated(run_dir: RunDir) -> float | None:
    paths = [run_dir.metrics, run_dir.events, run_dir.resolved, run_dir.summary]
    for logs in run_dir.launches[-1:]:
        with contextlib.suppress(OSError):
            paths += logs.root.iterdir()
    paths += [job_dir.record for job_dir in run_dir.job_dirs[-1:]]
    times = (modified(path) for path in paths)
    return max((moment for moment in times if moment is not None), default=None)


def _recipe(run_dir: RunDir) -> Mapping[str, Any]:
    try:
        value = YAML(typ="safe", pure=True).load(read_text(run_dir.resolved))
    except (OSError, ValueError, RecursionError, YAMLError):
        return {}
    return value if isinstance(value, Mapping) else {}
