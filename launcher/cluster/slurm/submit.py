"""`launcher submit`: checks, prepares, writes a job folder and hands its script to sbatch."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from launcher.cluster.node.agent import environment_for
from launcher.cluster.outcome import print_prepared, print_summary, print_warnings, say
from launcher.cluster.slurm.commands import SlurmError, ask, has_slurm, of_a_job
from launcher.cluster.slurm.job_folder import make_job_folder, remove_job_folders, write_record
from launcher.cluster.slurm.plan import Request, Submission, plan_submission
from launcher.cluster.slurm.queue import find_jobs
from launcher.cluster.slurm.script import JobPlan
from launcher.cluster.slurm.words import what, words_of
from launcher.errors import InputError, Problem
from launcher.files.read import read_record
from launcher.files.write import write_private
from launcher.lock import hold, holder_of
from launcher.recipe.check import KeyedRule
from launcher.recipe.prepared import prepared_before
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.run_settings import write_settings
from launcher.run_dir import RunDir

NOT_YET = "<number of the job that prepares>"


def submit(request: Request, *, dry_run: bool, rules: Sequence[KeyedRule] = ()) -> int:
    """Submit a run, or a sweep of runs as one job array; return the exit code.

    `dry_run`: print the script, write nothing.

    Raises:
        InputError: something that the user asked for can't be; nothing has been written then.
        SlurmError: Slurm refused the job; nothing is left of it.
    """
    submission = plan_submission(request, rules, needs_slurm=not dry_run)
    if isinstance(submission, RunDir):
        print_summary(submission, already=True)
        return 0
    if dry_run:
        _print_scripts(submission, request.prepare_on)
        return 0
    _require_slurm()
    run_dirs = [job.run_dir for job in submission.plan.jobs]
    # Until the job is in the queue, where the next `submit` sees it; its nodes take the other lock.
    with _holding(run_dir.submit_lock for run_dir in run_dirs):
        _require_free(submission)
        with _holding(run_dir.lock for run_dir in run_dirs):
            code = _make_ready(submission, run_dirs, prepares=not request.prepare_on)
        if code:
            return code
        job_id = _send(submission, request.prepare_on)
    sys.stdout.write(words_of(submission, job_id))
    return 0


def _print_scripts(submission: Submission, prepare_on: str | None) -> None:
    plan = submission.plan
    if prepare_on:
        sys.stdout.write(f"{plan.prepare_script(prepare_on)}\n")
        plan = replace(plan, after=(NOT_YET, *plan.after))
    sys.stdout.write(plan.script())
    say(f"not submitted; it would be: {what(submission)}")


def _require_slurm() -> None:
    if not has_slurm():
        message = "sbatch, squeue and scontrol are not on the path: this machine has no Slurm."
        raise InputError(Problem("launcher submit", "", message, "`launcher run` trains here."))


def _require_free(submission: Submission) -> None:
    """Refuse runs that another launch holds, or whose job is in the queue; name it."""
    problems = []
    for job in submission.plan.jobs:
        run_dir = job.run_dir
        holder = holder_of(run_dir.lock)
        if holder is not None:
            problems.append(Problem(str(run_dir.root), "", f"is held by {holder}."))
        records = [read_record(one.record) for one in run_dir.job_dirs]
        numbers = [str(record["job_id"]) for record in records if record.get("job_id")]
        for number, queued in find_jobs(numbers).items():
            if not queued.is_over:
                message = f"job {number} of this run is {queued.state}."
                cure = f"Wait for it, or end it: launcher stop {run_dir.root}"
                problems.append(Problem(str(run_dir.root), "", message, cure))
    if problems:
        raise InputError(problems)


@contextmanager
def _holding(locks: Iterable[Path]) -> Iterator[None]:
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(hold(lock, "launcher submit"))
        yield


def _make_ready(submission: Submission, run_dirs: Sequence[RunDir], *, prepares: bool) -> int:
    """Write what the ranks will read into each run folder; return the exit code of tokenising."""
    for run, run_dir in zip(submission.runs, run_dirs, strict=True):
        run_dir.take_back_stop()
        print_warnings(run)
        write_settings(run, run_dir)
        code = _prepare(run, run_dir) if prepares else 0
        if code:
            return code
    return 0


def _prepare(run: ResolvedRun, run_dir: RunDir) -> int:
    """Tokenise the data here, unless they are ready; return the exit code."""
    summary = prepared_before(run, run_dir)
    if summary is not None:
        print_prepared(summary)
        return 0
    command = [sys.executable, "-m", "launcher.train.prepare", str(run_dir.resolved)]
    command += run.consent.options()
    return subprocess.run(command, env=environment_for(1)).returncode


def _send(submission: Submission, prepare_on: str | None) -> str:
    """Write the job folders and submit; leave nothing behind where Slurm refuses."""
    plan = submission.plan
    preparing: str | None = None
    try:
        for job, run in zip(plan.jobs, submission.runs, strict=True):
            make_job_folder(job, run)
        first = plan.jobs[0]
        if prepare_on:
            write_private(first.prepare_script, plan.prepare_script(prepare_on))
            preparing = _sbatch(str(first.prepare_script), plan)
            plan = replace(plan, after=(preparing, *plan.after))
        script = plan.script()
        for job in plan.jobs:
            write_private(job.script, script)
        record = functools.partial(
            write_record, plan, submission.runs, submission.chain, preparing=preparing
        )
        record(job_id=None)
        job_id = _sbatch(str(first.script), plan)
    except BaseException:
        remove_job_folders(plan.jobs)
        if preparing is not None:
            ask("scancel", preparing)
        raise
    record(job_id=job_id)
    return job_id


def _sbatch(script: str, plan: JobPlan) -> str:
    """Submit a script; return the job's number.

    Variables that would come before what the script says are taken out, and so are those of a job
    that this command may itself be run in.
    """
    hidden = {f"SBATCH_{name.upper().replace('-', '_')}" for name in plan.options()}
    hidden |= {"SBATCH_TIMELIMIT", "SBATCH_ARRAY_INX", "SBATCH_NO_REQUEUE", "SBATCH_NO_KILL"}
    try:
        return (
            ask("sbatch", "--parsable", script, without=hidden | of_a_job())
            .strip()
            .partition(";")[0]
        )
    except SlurmError as error:
        message = f"Slurm refused the job: {error.said}"
        raise InputError(Problem("sbatch", "", message)) from error
