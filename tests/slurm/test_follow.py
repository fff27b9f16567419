"""`status`, `logs`, `runs`, `stop`, `doctor` against a real queue, with jobs in every state."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cluster.follow.facts import RunState
from launcher.cluster.follow.read import Queue, read_state
from launcher.run_dir import RunDir
from tests.support.followed import empty_run, write_attempt
from tests.support.jobs import REPOSITORY, submit_script
from tests.support.slurm_cluster import SlurmCluster

# A step that holds the run folder's lock as a launch does, and ends by what it was told to hear.
STEP = """
import os, pathlib, signal, sys, time
from launcher.cluster.node.signals import StopSignals
from launcher.lock import hold
from launcher.run_dir import RunDir
run_dir = RunDir(pathlib.Path(sys.argv[1]))
with hold(run_dir.lock, "launcher submit"), StopSignals() as signals:
    run_dir.stop_request.unlink(missing_ok=True)
    (run_dir.root / "began").touch()
    hears_signals = sys.argv[2] == "SIGTERM"
    while not (signals.asked == signal.SIGTERM if hears_signals else run_dir.stop_request.exists()):
        time.sleep(0.05)
sys.exit(75)
"""


def holding(run_dir: RunDir, hears: str) -> str:
    """Return the command of a job whose step holds the run folder until it hears that."""
    script = run_dir.root / "step.py"
    script.write_text(STEP)
    step = f"srun {shlex.quote(sys.executable)} {script} {run_dir.root} {hears}"
    return f"trap : TERM; {step}; echo step ended with $?"


def now(run_dir: RunDir) -> RunState:
    return read_state(run_dir, Queue())


def say(*command: str | Path, code: int = 0) -> str:
    """Run a command of ours; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return empty_run(tmp_path)


def test_pending_and_stopped_in_the_queue(slurm: SlurmCluster, run_dir: RunDir) -> None:
    job_id, _ = submit_script(slurm, run_dir, "sleep 60", "--hold")
    slurm.wait_for_state(job_id, "PENDING")
    state = now(run_dir)
    assert (state.state, state.job_id) == ("pending", job_id)
    shown = say("status", run_dir.root)
    assert shown.startswith("bot  pending\n")
    assert f"{job_id} PENDING (JobHeldUser)" in shown
    assert job_id in say("runs", run_dir.root.parent).splitlines()[1]
    assert f"cancelled: job {job_id} (PENDING)" in say("stop", run_dir.root)
    slurm.wait_for_state(job_id, "CANCELLED")
    state = now(run_dir)
    assert state.state == "stopped"
    assert "CANCELLED" in state.verdict.note
    assert "nothing is running" in say("stop", run_dir.root, code=2)


@pytest.mark.parametrize(("hears", "options"), [("request", ()), ("SIGTERM", ("--now",))])
def test_running_is_stopped_and_never_requeued(
    slurm: SlurmCluster, run_dir: RunDir, hears: str, options: tuple[str, ...]
) -> None:
    job_id, job_dir = submit_script(slurm, run_dir, holding(run_dir, hears), "-N2", "--time=10")
    slurm.wait_for_state(job_id, "RUNNING")
    slurm.wait_for((run_dir.root / "began").exists, 30, "the step")
    write_attempt(run_dir, 1, job_id=job_id)
    state = now(run_dir)
    assert (state.state, len(state.nodes)) == ("running", 2)
    assert state.limit_seconds_left is not None
    assert 0 < state.limit_seconds_left <= 600
    shown = say("status", run_dir.root)
    assert f"{job_id} RUNNING" in shown
    assert "warned 0:04:00 before its end" in shown
    assert ", ".join(state.nodes) in shown
    said = say("stop", run_dir.root, *options)
    assert f"job {job_id}" in said
    assert slurm.job(job_id)["Requeue"] == "0"
    refused = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, text=True)
    assert refused.returncode != 0
    assert slurm.wait_for_end(job_id) == "COMPLETED"  # the batch shell lived to say how it ended
    assert "step ended with 75" in (job_dir.root / f"slurm-{job_id}.log").read_text()


def test_a_job_without_ranks_is_cancelled(slurm: SlurmCluster, run_dir: RunDir) -> None:
    """It may be in its setup, where a stop request would be seen by nobody."""
    job_id, _ = submit_script(slurm, run_dir, "sleep 600")
    slurm.wait_for_state(job_id, "RUNNING")
    assert now(run_dir).state == "running"
    assert "no rank was running" in say("stop", run_dir.root, "--now")
    assert slurm.wait_for_end(job_id) == "CANCELLED"


def test_requeued_then_running_again(slurm: SlurmCluster, run_dir: RunDir) -> None:
    job_id, _ = submit_script(slurm, run_dir, "sleep 600", "-w", "n2")
    slurm.wait_for_state(job_id, "RUNNING")
    # A requeue that overtakes the start would have Slurm revoke the next one's credential.
    slurm.wait_for(lambda: bool(slurm.processes("n2")), 30, "the job's processes")
    logs = write_attempt(run_dir, 1, outcome="stopped", hours=1, job_id=job_id)
    logs.stopped.write_text(json.dumps({"step": 4, "reason": "time limit"}))
    slurm.run("scontrol", "requeue", job_id)
    slurm.wait_for(lambda: now(run_dir).state == "requeued", 30, "the requeue")
    slurm.start_now(job_id)
    slurm.wait_for_state(job_id, "RUNNING")
    state = now(run_dir)
    assert state.state == "running"
    assert state.job is not None
    assert (state.job.restart_count, state.job.nodes) == (1, ("n2",))
    assert "requeued 1 time" in say("status", run_dir.root)


def test_failed_and_killed_jobs(slurm: SlurmCluster, run_dir: RunDir) -> None:
    job_id, _ = submit_script(slurm, run_dir, "exit 3")
    assert slurm.wait_for_end(job_id) == "FAILED"
    state = now(run_dir)
    assert state.state == "failed"
    assert "before any rank began: FAILED" in say("status", run_dir.root)

    job_id, _ = submit_script(slurm, run_dir, "sleep 600", "--no-requeue", "-w", "n3")
    slurm.wait_for_state(job_id, "RUNNING")
    write_attempt(run_dir, 1, job_id=job_id, job_folder="jobs/002", nodes=("n3",))
    slurm.wait_for(lambda: bool(slurm.processes("n3")), 30, "the job's processes")
    slurm.kill_node("n3")
    slurm.declare_down("n3")
    assert slurm.wait_for_end(job_id, 90) == "NODE_FAIL"
    shown = say("status", run_dir.root)
    assert "the job ended: NODE_FAIL" in shown
    assert shown.startswith("bot  failed")
    slurm.start_node("n3")
    slurm.wait_idle()


def watching(*command: str | Path) -> subprocess.Popen[str]:
    """Start a command of ours that goes on until the job has ended."""
    return subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", *map(str, command)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "20"},
    )


def until(command: subprocess.Popen[str], words: str) -> str:
    """Return what a command prints up to a line with these words."""
    assert command.stdout is not None
    printed = ""
    while words not in printed:
        line = command.stdout.readline()
        assert line, printed
        printed += line
    return printed


def test_a_finished_job_and_its_logs(slurm: SlurmCluster, run_dir: RunDir) -> None:
    logs = write_attempt(run_dir, 1, outcome="finished", hours=1, nodes=("n1",))
    go = run_dir.root / "go"
    body = (
        f"echo progress; while ! test -e {go}; do sleep 0.1; done; "
        f"echo hello > {logs.rank(0)}; echo {{}} > {run_dir.summary}"
    )
    job_id, job_dir = submit_script(slurm, run_dir, body)
    slurm.wait_for_state(job_id, "RUNNING", "COMPLETED")
    following = watching("logs", run_dir.root, "--follow")
    until(following, "attempt 1 of bot")
    go.touch()
    assert "--- bot: finished\n" in following.communicate(timeout=60)[0]
    assert following.returncode == 0
    slurm.wait_for_end(job_id)
    assert now(run_dir).state == "finished"
    shown = say("logs", run_dir.root).splitlines()
    assert shown == [
        "--- attempt 1 of bot, job 42: finished",
        "n1 0 | hello",
        f"--- log of the job: {job_dir.root}/slurm-{job_id}.log",
    ]


def test_status_follows_a_job_to_its_end(slurm: SlurmCluster, run_dir: RunDir) -> None:
    go = run_dir.root / "go"
    job_id, _ = submit_script(slurm, run_dir, f"while ! test -e {go}; do sleep 0.1; done; exit 1")
    following = watching("status", "--watch", run_dir.root)
    shown = until(following, f"{job_id} RUNNING")
    go.touch()
    slurm.wait_for_end(job_id)
    shown += following.communicate(timeout=60)[0]
    states = [line.split()[1] for line in shown.splitlines() if line.startswith("bot")]
    assert states[-1] == "failed"
    assert "running" in states
    assert "before any rank began: FAILED (NonZeroExitCode)" in shown  # whole, on a narrow screen


def test_doctor_sees_the_partitions_and_its_own_job(slurm: SlurmCluster) -> None:
    shown = say("doctor")
    assert "partition" in shown
    assert "main: at most 2:00:00, 4 of 4 nodes idle (8 processors, " in shown
    assert "gpu:2 each)" in shown
    assert "allocation" in shown
    assert "this is no job" in shown
    inside = slurm.run(
        "srun", "-N2", "--ntasks-per-node=1", "-w", "n2,n3", "--time=10", f"--chdir={REPOSITORY}",
        sys.executable, "-m", "launcher.cli", "doctor",
    )  # fmt: skip
    assert inside.count(" on n2, n3; ") == 2
    assert inside.count(": ready") == 2
    assert re.search(r"; 0:(10:00|09:\d\d) left", inside)
