"""Accounts, qualities of service and jobs that the controller has forgotten, by a real slurmdbd."""

from __future__ import annotations

import itertools
import json
import pwd
import subprocess
import sys
from collections.abc import Iterator

import pytest

from launcher.cluster.slurm.limits import Associations
from launcher.cluster.slurm.options import ASK
from launcher.cluster.slurm.queue import find_jobs
from tests.support.launches import LAUNCHER
from tests.support.projects import MakeProject, Project
from tests.support.slurm_accounting import why_no_accounting
from tests.support.slurm_cluster import SlurmCluster, why_no_slurm

USER = "nobody"
QUIET = ("--output=/dev/null", "--no-requeue")
SETUP = (
    "add account lab",
    "add account other",
    "add qos long",
    "add user root account=lab qos=normal,long",
    "add user root account=other",
    f"add user {USER} account=lab qos=normal,long",
    # What another cluster of the same accounting has is none of this one's.
    "add cluster elsewhere",
    "add account far cluster=elsewhere",
    "add qos huge",
    "add user root account=far cluster=elsewhere qos=huge",
)


@pytest.fixture(scope="module")
def slurm_cluster(first_job_id: int) -> Iterator[SlurmCluster]:
    """A Slurm of two nodes that refuses what its accounting doesn't know."""
    why_not = why_no_slurm() or why_no_accounting()
    if why_not:
        pytest.skip(f"NO ACCOUNTING HERE: {why_not}")
    with SlurmCluster(2, has_accounting=True, first_job_id=first_job_id + 100) as cluster:
        for words in SETUP:
            cluster.run("sacctmgr", "--immediate", *words.split())
        yield cluster


def become(user: str) -> tuple[str, ...]:
    """Return what makes a command another user's."""
    found = pwd.getpwnam(user)
    return ("setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups")


def associations_of(user: str) -> Associations:
    """Return what the launcher finds for a user, who need not be let near this Python's files."""
    code = (
        "import os, json; from launcher.cluster.slurm.limits import associations\n"
        f"os.setuid({pwd.getpwnam(user).pw_uid}); found = associations()\n"
        "print(json.dumps({name: list(qos) for name, qos in found.qos_of.items()}))"
    )
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Associations({name: frozenset(qos) for name, qos in json.loads(shown).items()})


def accounted(slurm: SlurmCluster, job_id: str, *names: str) -> list[str]:
    """Return what sacct has of a job."""
    options = ("--noheader", "--parsable2", "--allocations", f"--jobs={job_id}")
    return slurm.run("sacct", *options, f"--format={','.join(names)}").strip().split("|")


def status(here: Project) -> list[str]:
    """Return the lines of `launcher status`."""
    command = [LAUNCHER, "status", here.run_dir.root]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_job_has_the_account_and_the_quality_that_were_asked_for(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project(site="account: OTHER\nqos: LONG\n")
    job_id, _ = here.submit("--account", "Lab")  # Slurm doesn't tell the case of either
    assert slurm.wait_for_end(job_id) == "COMPLETED", slurm.log()
    assert (slurm.job(job_id)["Account"], slurm.job(job_id)["QOS"]) == ("lab", "long")
    wanted = ["root", "lab", "long"]
    slurm.wait_for(
        lambda: accounted(slurm, job_id, "User", "Account", "QOS") == wanted, 30, "the accounting"
    )


@pytest.mark.parametrize("user", ["root", USER])
def test_what_is_known_of_a_user_is_what_slurm_lets_him_have(
    slurm: SlurmCluster, user: str
) -> None:
    known = associations_of(user)
    assert known.accounts == ({"lab", "other", "root"} if user == "root" else {"lab"})
    for account, qos in itertools.product(
        ("lab", "LAB", "other", "far"), ("normal", "Long", "huge")
    ):
        expected = account.lower() in known.accounts and qos.lower() in known.qos(account)
        ask = (*become(user), "sbatch", "--test-only", f"--account={account}", f"--qos={qos}")
        done = subprocess.run([*ask, "--wrap", "true"], cwd="/", capture_output=True, text=True)
        assert (done.returncode == 0) == expected, (account, qos, done.stderr)


@pytest.mark.parametrize(
    ("account", "qos", "said"),
    [
        (
            "labs",
            "long",
            ['no account "labs" here; there are: lab, other, root. Did you mean lab?'],
        ),
        (
            "far",
            "huge",
            [
                f'no account "far" here; there are: lab, other, root. {ASK}',
                f'no qos "huge" here; there are: long, normal. {ASK}',
            ],
        ),
        ("other", "long", [f'no qos "long" here; there are: normal. {ASK}']),
    ],
)
def test_what_the_user_may_not_have_is_refused_before_anything_is_written(
    project: MakeProject,
    slurm: SlurmCluster,
    monkeypatch: pytest.MonkeyPatch,
    account: str,
    qos: str,
    said: list[str],
) -> None:
    monkeypatch.setenv("LOGNAME", USER)  # Slurm goes by who we are
    here = project()
    refused = here.ask("--account", account, "--qos", qos)
    assert refused.returncode == 2
    lines = refused.stderr.splitlines()
    assert len(lines) == len(said), lines
    assert all(line.endswith(words) for line, words in zip(lines, said, strict=True)), lines
    assert f"--set cluster.{'qos' if account == 'other' else 'account'}=" in lines[0]
    assert not (here.folder / "runs").exists()
    by_slurm = subprocess.run(
        ["sbatch", f"--account={account}", f"--qos={qos}", "--wrap", "true"], capture_output=True
    )
    assert by_slurm.returncode != 0


def test_jobs_that_only_the_accounting_knows(slurm: SlurmCluster) -> None:
    late = slurm.sbatch("sleep 600", *QUIET)
    slurm.wait_for_state(late, "RUNNING")
    slurm.run(
        "scontrol", "update", f"JobId={late}", "EndTime=now+3seconds"
    )  # a limit is minutes long
    failed_later = slurm.sbatch("exit 3", f"--dependency=afternotok:{late}", *QUIET)
    good = slurm.sbatch("true", "--nodes=2", *QUIET)
    failed = slurm.sbatch("exit 3", *QUIET)
    killed = slurm.sbatch("kill -9 $$", *QUIET)
    array = slurm.sbatch("exit $SLURM_ARRAY_TASK_ID", "--array=0-2", *QUIET)
    cancelled = slurm.sbatch("sleep 600", *QUIET)
    slurm.wait_for_state(cancelled, "RUNNING")
    held = slurm.sbatch("true", "--hold", *QUIET)
    slurm.run("scancel", cancelled, held)
    goes_on = slurm.sbatch("sleep 600", *QUIET)
    tasks = [f"{array}_{task}" for task in range(3)]
    for job_id in (late, failed_later, good, failed, killed, *tasks, cancelled, held):
        slurm.wait_for_end(job_id)
    known = (late, failed_later, good, failed, killed, *tasks, cancelled, held, goes_on)
    before = find_jobs(known)

    slurm.forget_ended_jobs()
    assert not slurm.job(failed)
    after = slurm.wait_for(
        lambda: (found := find_jobs([*known, "4242"]))[late].is_over and found, 30, "the end"
    )
    assert {job_id: (job.state, job.exit_code) for job_id, job in after.items()} == {
        late: ("TIMEOUT", None),
        failed_later: ("FAILED", 3),
        good: ("COMPLETED", 0),
        failed: ("FAILED", 3),
        killed: ("FAILED", 137),
        tasks[0]: ("COMPLETED", 0),
        tasks[1]: ("FAILED", 1),
        tasks[2]: ("FAILED", 2),
        cancelled: ("CANCELLED", None),
        held: ("CANCELLED", None),
        goes_on: ("RUNNING", None),
    }
    for job_id, job in after.items():
        assert (job.state, job.nodes) == (before[job_id].state, before[job_id].nodes)
        assert job.time_limit_seconds == before[job_id].time_limit_seconds
        assert job_id == held or not job.reason  # why it had to wait is not why it ended
    assert after[good].nodes == ("n1", "n2")
    assert after[held].nodes == ()


def test_status_of_a_run_whose_job_is_forgotten(project: MakeProject, slurm: SlurmCluster) -> None:
    here = project()
    here.act("sys.exit(3)")
    blocker = slurm.sbatch(f"while ! test -e {here.folder}/go; do sleep 0.1; done", *QUIET)
    job_id, _ = here.submit("--after", blocker)
    assert status(here)[:2] == ["bot  pending", f"  job   {job_id} PENDING (Dependency)"]
    (here.folder / "go").touch()
    assert slurm.wait_for_end(job_id) == "FAILED"
    began = "the job ended before any rank began"
    before = status(here)
    assert before[0] == f"bot  failed  {began}: FAILED (NonZeroExitCode)"

    slurm.forget_ended_jobs()
    assert not slurm.job(job_id)
    after = status(here)
    assert after[0] == f"bot  failed  {began}: FAILED"
    assert [line.replace(" (NonZeroExitCode)", "") for line in before] == after
    assert [line.split() for line in after[1:3]] == [["job", job_id, "FAILED"], ["nodes", "n1"]]
    shown = subprocess.run(
        [LAUNCHER, "runs", here.folder / "runs"], capture_output=True, text=True, check=True
    ).stdout
    assert "failed" in shown
    assert job_id in shown
