"""One word for the state of a run: Slurm's, where its job is known, before what the files say."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.attempts import Attempt
from launcher.cluster.follow.submitted import Submitted
from launcher.cluster.slurm.queue import QueuedJob

# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
ACTIVE = ("RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
WAITING = (
    "PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD",
)  # fmt: skip
TAKEN_AWAY = ("CANCELLED", "PREEMPTED", "REVOKED")
OPEN = ("pending", "running", "requeued")
"""States of a run that goes on by itself."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a run before it is judged."""

    attempts: list[Attempt]
    finished: bool
    held: bool
    """Somebody holds the lock of the run folder."""
    left_lock: bool
    """A lock is there that nobody holds: its holder was killed."""
    submitted: Submitted | None = None
    job: QueuedJob | None = None
    """The newest job in Slurm's words; None where Slurm doesn't know it, or isn't there."""
    has_queue: bool = False
    """Whether Slurm could be asked."""


@dataclass(frozen=True)
class Verdict:
    """The state, and what isn't in the attempt that led to it."""

    state: str
    note: str = ""


def judge(found: Evidence) -> Verdict:
    """Return the state: pending, running, requeued, stopped, finished, failed or lost.

    `running` needs somebody who is known to work on it: a job that Slurm says runs, or the holder
    of the lock. A run that was killed is `lost`.
    """
    if found.finished:
        return Verdict("finished")
    job = found.job
    if job is not None and job.state in ACTIVE:
        return Verdict("running")
    if job is not None and job.state in WAITING:
        again = job.restart_count > 0 or (
            found.submitted and found.submitted.has_run(found.attempts)
        )
        return Verdict("requeued" if again else "pending")
    if found.held:
        return Verdict("running")
    if _waits_for_first_attempt(found):
        return _never_began(found)
    if not found.attempts:
        return Verdict("lost", "killed before any rank began") if found.left_lock else _not_begun()
    return _by_newest_attempt(found)


def _waits_for_first_attempt(found: Evidence) -> bool:
    """Return whether what was submitted last has not come to an attempt."""
    submitted = found.submitted
    if submitted is None or submitted.has_run(found.attempts):
        return False
    newest = found.attempts[-1] if found.attempts else None
    return newest is None or newest.is_before(submitted.submitted)


def _never_began(found: Evidence) -> Verdict:
    assert found.submitted is not None
    if found.submitted.job_id is None:
        return Verdict("pending", "the job script is written, not submitted")
    if found.job is not None:
        state = "stopped" if found.job.state in TAKEN_AWAY else "failed"
        return Verdict(state, f"the job ended before any rank began: {in_words(found.job)}")
    if found.has_queue:
        return Verdict("lost", f"Slurm doesn't know job {found.submitted.job_id} any more")
    return Verdict("pending", "as submitted: Slurm can't be asked on this host")


def _not_begun() -> Verdict:
    return Verdict("stopped", "no rank has begun")


def _by_newest_attempt(found: Evidence) -> Verdict:
    newest, job, submitted = found.attempts[-1], found.job, found.submitted
    is_of_job = submitted is not None and submitted.has_run([newest])
    if job is not None and is_of_job and newest.outcome == "lost":
        if job.state in TAKEN_AWAY:
            return Verdict("stopped", f"the job was ended: {in_words(job)}")
        if job.state not in ("COMPLETED", "COMPLETING"):
            return Verdict("failed", f"the job ended: {in_words(job)}")
    if submitted is not None and submitted.requeued and is_of_job and not found.has_queue:
        return Verdict("requeued", "when its step ended: Slurm can't be asked on this host")
    return Verdict("lost" if newest.outcome == "running" else newest.outcome)


def in_words(job: QueuedJob) -> str:
    """Return state and reason as Slurm names them."""
    reason = "" if job.reason in ("", "None") else f" ({job.reason})"
    return f"{job.state}{reason}"
