"""srun is waited for, and left where it waits for a node that is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.cluster.slurm import step as step_module
from launcher.cluster.slurm.step import Step
from launcher.run_dir import JobDir

REPOSITORY = Path(__file__).resolve().parents[4]
SLEEP = ("sleep", "30")


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    folder = tmp_path / "run" / "jobs" / "001"
    folder.mkdir(parents=True)
    return JobDir(folder)


def write_attempt(job: JobDir, number: int, **values: object) -> None:
    logs = job.run_dir.logs(number)
    logs.root.mkdir(parents=True)
    record = {"job_id": "7", "restart_count": 0, "exit_code": None, **values}
    logs.attempt.write_text(json.dumps(record))


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 75", 75), ("kill -9 $$", 137)])
def test_the_exit_code_is_sruns(job: JobDir, script: str, code: int) -> None:
    assert Step(job, "7", 0).run(["bash", "-c", script]) == code


def test_without_srun_there_is_a_word_and_a_shells_code(
    job: JobDir, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Step(job, "7", 0).run(["/nowhere/srun"]) == 127
    assert "/nowhere/srun can't be started: No such file" in capfd.readouterr().err


def test_srun_is_left_once_the_launch_has_ended(
    job: JobDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(step_module, "SRUN_SECONDS", 0.5)
    write_attempt(job, 1, exit_code=1)
    began = time.monotonic()
    assert Step(job, "7", 0).run(SLEEP) == 128 + signal.SIGKILL
    assert 0.5 < time.monotonic() - began < 10


@pytest.mark.parametrize(
    "newest", [{"restart_count": 0}, {"restart_count": 1, "exit_code": 1}, {"job_id": "8"}]
)
def test_srun_is_not_left_while_the_launch_goes_on(
    job: JobDir, monkeypatch: pytest.MonkeyPatch, newest: dict[str, object]
) -> None:
    """Started again within the job; another start of it; another job."""
    monkeypatch.setattr(step_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(step_module, "SRUN_SECONDS", 0.2)
    if newest != {"restart_count": 1, "exit_code": 1}:
        write_attempt(job, 1, exit_code=1, job_id=newest.get("job_id", "7"))
    write_attempt(job, 2, **newest)
    assert Step(job, "7", 0).run(["sleep", "1"]) == 0


def test_a_warning_ends_neither_this_nor_what_it_waits_for(job: JobDir) -> None:
    script = "trap 'echo warned; exit 75' USR1; echo ready; while :; do sleep 0.05; done"
    command = [sys.executable, "-m", "launcher.cluster.slurm.step", job.root, "bash", "-c", script]
    environment = {**os.environ, "SLURM_JOB_ID": "7", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, cwd=REPOSITORY, process_group=0
    ) as step:
        assert step.stdout is not None
        assert step.stdout.readline() == b"ready\n"
        step.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert step.poll() is None
        os.killpg(step.pid, signal.SIGUSR1)
        assert step.stdout.read() == b"warned\n"
    assert step.returncode == 75
