"""Whether a job whose step has ended goes on by itself: decided from what was written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.cluster.restarts import STUCK_ATTEMPTS, newest_step
from launcher.errors import EXIT_STOPPED
from launcher.files.lines import read_lines
from launcher.files.read import Record, read_record
from launcher.run_dir import JobDir, LogDir

BY_A_PERSON = ("launcher stop", "Ctrl-C", "SIGINT")
"""Reasons of a clean stop that mean it: the run waits until somebody starts it again."""
MAY_PASS = ("node", "killed", "late node", "lost peer", "port")
"""Categories of causes that another attempt, on other nodes where that helps, may not meet."""
WHILE_IT_RUNS = "RUNNING"


@dataclass(frozen=True)
class Ended:
    """How a step ended, as far as is known."""

    exit_code: int
    state: str
    """Slurm's state of the job."""
    requeued_by_slurm: bool = False
    """Slurm has started it over already: preemption, a lost node, `scontrol requeue`."""
    is_finished: bool = False
    stop_asked: bool = False
    """Somebody has asked the run to stop, `launcher stop`."""
    stopped: Record | None = None
    """Step and reason of a clean stop."""
    cause: Record | None = None
    stuck: int = 0
    """Attempts in a row, this one included, that brought no new checkpoint."""


@dataclass(frozen=True)
class Decision:
    """What becomes of the job, and why."""

    requeue: bool
    why: str
    exclude: tuple[str, ...] = ()
    """Nodes that the next attempt avoids."""
    is_done: bool = False
    """Nothing has to be asked of Slurm any more."""


def decide(ended: Ended) -> Decision:
    """Return whether the job is requeued; a job that Slurm or its user is ending never is."""
    if ended.is_finished and not ended.requeued_by_slurm:
        return Decision(False, "the run is finished")
    if ended.exit_code == 0 and not ended.requeued_by_slurm:
        return Decision(False, "the step ended without an error")
    if ended.requeued_by_slurm:
        return Decision(True, "Slurm did it: preempted, or asked to", is_done=True)
    if ended.state != WHILE_IT_RUNS:
        return Decision(False, f"the job is {ended.state or 'unknown to Slurm'}")
    if ended.stop_asked:
        return Decision(False, "`launcher stop` was asked for")
    wish = _stopped(ended) if ended.exit_code == EXIT_STOPPED else _failed(ended)
    if wish.requeue and ended.stuck >= STUCK_ATTEMPTS:
        why = f"{ended.stuck} attempts in a row brought no new checkpoint; last: {wish.why}"
        return Decision(False, why)
    return wish


def _stopped(ended: Ended) -> Decision:
    reason = (ended.stopped or Record()).text("reason") or "no reason given"
    if any(word in reason for word in BY_A_PERSON):
        return Decision(False, f"stopped by {reason}")
    return Decision(True, f"stopped in time ({reason})")


def _failed(ended: Ended) -> Decision:
    if ended.cause is None:
        why = f"the step ended with exit code {ended.exit_code}, and no cause was written"
        return Decision(False, why)
    category = ended.cause.text("category") or ended.cause.text("kind") or "unknown"
    if category not in MAY_PASS or not ended.cause.get("can_restart", True):
        return Decision(False, f"{category}: another attempt would meet it again")
    return Decision(True, category, ended.cause.texts("nodes"))


def attempt_of(launches: Sequence[LogDir], job_id: str, restart_count: int) -> LogDir | None:
    """Return the newest launch that this start of this job has made; None if it made none."""
    for logs in reversed(launches):
        record = read_record(logs.attempt)
        if record.text("job_id") == job_id:
            return logs if (record.integer("restart_count") or 0) == restart_count else None
    return None


def exit_code_of(logs: LogDir | None, srun_code: int) -> int:
    """Return what a launch itself says that it ended with; srun's code where it says nothing.

    The first node that ends lets srun kill the others (--kill-on-bad-exit), and the highest code is
    srun's: of a clean stop it may be that of a node which was killed on its way out.
    """
    if logs is None:
        return srun_code
    code = read_record(logs.attempt).integer("exit_code")
    if code is not None:
        return code
    return EXIT_STOPPED if srun_code and logs.stopped.exists() else srun_code


def stuck_attempts(job: JobDir) -> int:
    """Return how many attempts in a row, with the one that has just ended, saved nothing new."""
    submitted = read_record(job.record)
    ends = read_lines(job.ended).records
    steps = [record.integer("checkpoint") or 0 for record in (submitted, *ends)]
    now, stuck = newest_step(job.run_dir), 0
    for step in reversed(steps):
        if step < now:
            break
        stuck += 1
    return stuck
