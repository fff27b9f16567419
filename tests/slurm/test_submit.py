"""`launcher submit` against a real Slurm; what a job's step does is a stand-in of a few lines."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cluster.slurm.queue import find_jobs
from launcher.lock import hold
from launcher.run_dir import RunDir
from tests.support.jobs import ended
from tests.support.launches import LAUNCHER
from tests.support.projects import MakeProject
from tests.support.slurm_cluster import SlurmCluster

HOSTILE = "a b\"c'd 100%j%% #e $(touch pwned) ;f"


def test_a_job_runs_what_was_submitted_from_a_hostile_folder(
    project: MakeProject, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-of-wandb")
    monkeypatch.setenv("NOT_FOR_JOBS", "canary")
    monkeypatch.setenv("SBATCH_PARTITION", "high")
    here = project(
        HOSTILE,
        site='partition: main\nenvironment: {GREETING: "it\'s $HOME \\"here\\""}\n'
        "setup: ['export FROM_SETUP=\"$((6 * 7))\"']\n",
        cluster={"num_nodes": 2, "gpus_per_node": 2},
    )
    blocker = slurm.sbatch(
        "while ! test -e go; do sleep 0.1; done", "--output=/dev/null", f"--chdir={here.folder}"
    )
    job_id, job = here.submit("--after", blocker, "--set", "train.micro_batch_size=2")
    submitted = here.recipe.read_text()
    assert slurm.job(job_id)["Dependency"].startswith(f"afterok:{blocker}")
    here.recipe.write_text(submitted.replace("seed: 7", "seed: 8"))
    (here.folder / "go").touch()
    assert slurm.wait_for_end(job_id) == "COMPLETED", slurm.log()

    seen = here.seen(job)
    assert here.seen(job, node=1)["environment"]["SLURM_NODEID"] == "1"
    assert "seed: 7" in seen["recipe"]
    assert seen["folder"] == str(here.folder)
    assert seen["arguments"] == [str(job.root)]
    variables = seen["environment"]
    assert variables["GREETING"] == 'it\'s $HOME "here"'
    assert variables["FROM_SETUP"] == "42"
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["WANDB_API_KEY"] == "canary-of-wandb"
    assert "NOT_FOR_JOBS" not in variables
    assert variables["SLURM_GPUS_ON_NODE"] == "2"
    assert variables["SLURM_CPUS_PER_TASK"] == "8"
    assert slurm.job(job_id)["Partition"] == "main"
    assert ended(job)[0]["why"] == "the step ended without an error"
    assert "not requeued" in job.log(job_id).read_text()
    assert not list(here.folder.rglob("pwned"))
    for file in (job.script, job.meeting_key):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not [path for path in here.folder.rglob("*") if _has(path, "canary-of-wandb", "seen-")]
    record = json.loads(job.record.read_text())
    assert record["job_id"] == job_id
    assert (record["num_nodes"], record["gpus_per_node"], record["ranks_per_node"]) == (2, 2, 2)
    assert record["after"] == [blocker]


def _has(path: Path, text: str, but: str) -> bool:
    return path.is_file() and but not in path.name and text.encode() in path.read_bytes()


def test_a_dry_run_prints_the_script_and_writes_nothing(project: MakeProject) -> None:
    here = project()
    before = sorted(here.folder.rglob("*"))
    done = here.ask("--dry-run")
    assert done.returncode == 0
    assert done.stdout.startswith("#!/bin/bash -l\n")
    assert "#SBATCH --requeue\n" in done.stdout
    assert f"{sys.executable} -m launcher.cluster.slurm.step" in done.stdout
    assert "not submitted" in done.stderr
    assert sorted(here.folder.rglob("*")) == before


def test_a_run_is_refused_while_its_job_waits_or_another_holds_its_folder(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project()
    here.act("import time; time.sleep(60)")
    job_id, job = here.submit()
    again = here.ask()
    assert again.returncode == 2
    assert f"job {job_id} of this run is " in again.stderr
    assert here.run_dir.job_dirs == [job]
    queued = slurm.wait_for(
        lambda: (found := find_jobs([job_id])[job_id]).state == "RUNNING" and found, 30, "a start"
    )
    assert queued.nodes == ("n1",)
    assert queued.time_limit_seconds == 1800
    slurm.run("scancel", job_id)
    assert slurm.wait_for_end(job_id) == "CANCELLED"
    assert find_jobs([job_id])[job_id].is_over
    with hold(here.run_dir.lock, "launcher run"):
        held = here.ask()
    assert held.returncode == 2
    assert "is held by `launcher run`" in held.stderr
    assert here.submit()[1] == here.run_dir.job(2)


def test_a_sweep_is_one_array_with_a_run_folder_a_task(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project()
    bad = here.ask("--sweep", "train.learning_rate=1e-5,fast")
    assert bad.returncode == 2
    assert "--set train.learning_rate=fast" in bad.stderr
    assert not (here.folder / "runs").exists()
    job_id, _ = here.submit("--sweep", "train.learning_rate=1e-5,2e-5")
    for task, rate in enumerate(("1e-5", "2e-5")):
        assert slurm.wait_for_end(f"{job_id}_{task}") == "COMPLETED"
        job = RunDir(here.folder / "runs" / f"bot-learning_rate-{rate}").job(1)
        seen = here.seen(job)
        assert f"learning_rate: {float(rate):.0e}".replace("e-0", "e-") in seen["recipe"].replace(
            "e-0", "e-"
        )
        record = json.loads(job.record.read_text())
        assert record["job_id"] == f"{job_id}_{task}"
        assert record["array"]["task"] == task
        assert "not requeued" in job.log(seen["environment"]["SLURM_JOB_ID"]).read_text()


def test_a_run_longer_than_the_partition_allows_is_a_chain(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project()
    done = here.ask("--time", "10:00:00", "--partition", "main")
    assert done.returncode == 0, done.stderr
    assert "about 6 jobs of 02:00:00" in done.stdout
    record = json.loads(here.run_dir.job(1).record.read_text())
    assert (record["time"], record["chain"]) == ("02:00:00", 6)
    assert slurm.job(record["job_id"])["TimeLimit"] == "02:00:00"
    unknown = here.ask("--partition", "gpus", "--set", "run.name=other")
    assert unknown.returncode == 2
    assert 'no partition "gpus" here; there are: cpu, high, main.' in unknown.stderr
    unknown = here.ask("--constraint", "any&fast", "--set", "run.name=other")
    assert unknown.returncode == 2
    assert 'no constraint "fast" here; there are: any, n1, n2, n3, n4.' in unknown.stderr


def test_data_prepared_in_a_job_before(
    project: MakeProject, slurm: SlurmCluster, tmp_path: Path
) -> None:
    here = project(HOSTILE, data={"cache_dir": str(tmp_path / HOSTILE / "cache")})
    job_id, job = here.submit("--prepare-on", "cpu")
    preparing = json.loads(job.record.read_text())["after"][0]
    cache = here.folder / "cache"
    assert not cache.exists()
    assert slurm.wait_for_end(preparing) == "COMPLETED"
    assert slurm.job(preparing)["Partition"] == "cpu"
    assert list(cache.iterdir())
    assert slurm.wait_for_end(job_id) == "COMPLETED", slurm.log()


def test_a_stop_cancels_the_job_that_prepares_too(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project(HOSTILE, site="setup: ['while ! test -e go; do sleep 0.1; done']\n")
    job_id, job = here.submit("--prepare-on", "cpu")
    preparing = json.loads(job.record.read_text())["prepared_by"]
    slurm.wait_for_state(preparing, "RUNNING")
    done = subprocess.run([LAUNCHER, "stop", here.run_dir.root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [slurm.wait_for_end(number) for number in (job_id, preparing)] == ["CANCELLED"] * 2


def test_bad_data_end_both_jobs(project: MakeProject, slurm: SlurmCluster) -> None:
    here = project(data={"columns": {"text": "no_such_column"}})
    job_id, job = here.submit("--prepare-on", "cpu")
    preparing = json.loads(job.record.read_text())["after"][0]
    assert slurm.wait_for_end(preparing) == "FAILED"
    assert slurm.wait_for_end(job_id) == "CANCELLED"
    assert "no_such_column" in job.prepare_log(preparing).read_text()


def test_a_job_is_requeued_after_a_stop_in_time_and_where_slurm_does_it(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    """One job: warned by a signal, requeued by hand, preempted, then through."""
    here = project()
    here.act(
        "import signal, time\n"
        "if os.environ['SLURM_NODEID'] == '1':\n"
        "    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "    (job / f'waits-{restart}-1').touch()\n"
        "    time.sleep(0 if restart else 60)\n"  # killed once the other node ends
        "elif restart < 3:\n"
        "    got = []\n"
        "    for number in (signal.SIGTERM, signal.SIGUSR1):\n"
        "        signal.signal(number, lambda *_: got.append(1))\n"
        "    if restart: attempt(stopped={'step': 3, 'reason': 'SIGTERM or SIGUSR1'})\n"
        "    (job / f'waits-{restart}-0').touch()\n"
        "    while not got: time.sleep(0.05)\n"
        "    if not restart:\n"
        "        attempt(stopped={'step': 3, 'reason': 'SIGTERM or SIGUSR1'})\n"
        "        (run / 'checkpoints' / 'step-000003').mkdir(parents=True)\n"
        "        (run / 'checkpoints' / 'step-000003' / 'manifest.json').write_text('{}')\n"
        "    sys.exit(75)\n"
        "else: attempt()\n"
    )
    job_id, job = here.submit("--num-nodes", "2", "--partition", "main")

    def wait_for_steps(start: int) -> None:
        for node in (0, 1):
            slurm.wait_for((job.root / f"waits-{start}-{node}").exists, 60, "the step")

    def start_again(start: int) -> None:
        slurm.wait_for(lambda: slurm.job(job_id)["Restarts"] == str(start), 30, "the requeue")
        slurm.wait_for(lambda: len(ended(job)) == start, 30, "the record")
        slurm.start_now(job_id)

    wait_for_steps(0)
    slurm.run("scancel", "--signal=USR1", job_id)
    start_again(1)
    wait_for_steps(1)
    slurm.run("scontrol", "requeue", job_id)
    start_again(2)
    wait_for_steps(2)
    slurm.sbatch("true", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null")
    start_again(3)
    assert slurm.wait_for_end(job_id) == "COMPLETED", slurm.log()
    first, by_hand, preempted, last = ended(job)
    assert (first["exit_code"], first["requeued"], first["attempt"]) == (75, True, 1)
    assert by_hand["requeued"]
    assert by_hand["why"] == "Slurm did it: preempted, or asked to"
    assert preempted["requeued"]  # by the job itself, which has a moment for it, or by Slurm
    assert (last["exit_code"], last["requeued"], last["checkpoint"]) == (0, False, 3)
    log = job.log(job_id).read_text()
    assert log.index("requeued: stopped in time") < log.index("not requeued: the step ended")


def test_a_bad_node_is_avoided_with_those_that_were_before(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project(site="options: ['--exclude=n2']\n")
    here.act(
        "if restart == 0:\n"
        "    node = os.environ['SLURMD_NODENAME']\n"
        "    attempt(cause={'category': 'node', 'nodes': [node, 'elsewhere'], 'message': 'x'})\n"
        "    sys.exit(1)\n"
    )
    job_id, job = here.submit()
    slurm.wait_for(lambda: slurm.job(job_id)["Restarts"] == "1", 30, "the requeue")
    slurm.wait_for(lambda: "n1" in slurm.job(job_id)["ExcNodeList"], 10, "the exclusion")
    slurm.start_now(job_id)
    assert slurm.wait_for_end(job_id) == "COMPLETED", slurm.log()
    assert here.seen(job)["environment"]["SLURMD_NODENAME"] == "n1"
    assert here.seen(job, start=1)["environment"]["SLURMD_NODENAME"] == "n3"


def test_a_cancelled_job_is_not_requeued(project: MakeProject, slurm: SlurmCluster) -> None:
    here = project()
    here.act(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: got.append(1))\n"
        "got = []\n"
        "attempt(stopped={'step': 3, 'reason': 'SIGTERM or SIGUSR1'})\n"
        "(job / 'waits').touch()\n"
        "while not got: time.sleep(0.05)\n"
        "sys.exit(75)\n"
    )
    job_id, job = here.submit()
    slurm.wait_for((job.root / "waits").exists, 30, "the step")
    slurm.run("scancel", job_id)
    assert slurm.wait_for_end(job_id) == "CANCELLED"
    slurm.wait_idle()
    assert slurm.job(job_id)["Restarts"] == "0"
    (record,) = ended(job)
    assert not record["requeued"]
    assert record["why"] in ("the job is COMPLETING", "the job is CANCELLED")


def test_three_attempts_without_progress_end_the_chain(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project()
    here.act("attempt(stopped={'step': 0, 'reason': 'SIGTERM or SIGUSR1'}); sys.exit(75)")
    job_id, job = here.submit()
    for restarts in ("1", "2"):
        slurm.wait_for(lambda n=restarts: slurm.job(job_id)["Restarts"] == n, 30, "the requeue")
        slurm.start_now(job_id)
    assert slurm.wait_for_end(job_id) == "FAILED"
    assert [record["requeued"] for record in ended(job)] == [True, True, False], slurm.log()
    assert "3 attempts in a row brought no new checkpoint" in ended(job)[-1]["why"]
    assert find_jobs([job_id])[job_id].exit_code == 75


def test_a_code_error_is_not_tried_again(project: MakeProject, slurm: SlurmCluster) -> None:
    here = project()
    here.act("attempt(cause={'category': 'code', 'message': 'x', 'nodes': []}); sys.exit(1)")
    job_id, job = here.submit()
    assert slurm.wait_for_end(job_id) == "FAILED"
    assert ended(job)[0]["why"] == "code: another attempt would meet it again"


def test_of_two_submits_at_one_moment_one_gets_through(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project()
    here.act("import time; time.sleep(600)")
    command = [LAUNCHER, "submit", here.recipe.name]
    both = [
        subprocess.Popen(command, cwd=here.folder, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [one.communicate(timeout=120)[1] for one in both]
    assert sorted(one.returncode for one in both) == [0, 2], errors
    refused = errors[0] + errors[1]
    assert "is held by `launcher submit`" in refused or "of this run is" in refused
    assert len(here.run_dir.job_dirs) == 1


def test_recipe_and_site_file_are_told_of_at_once(
    project: MakeProject, slurm: SlurmCluster
) -> None:
    here = project(site="acount: lab\n")
    refused = here.ask("--after", "yesterday", "--set", "train.max_stepz=3")
    assert refused.returncode == 2
    for word in ("acount", "yesterday", "max_stepz"):
        assert word in refused.stderr, refused.stderr


def test_what_sbatch_refuses_leaves_nothing(project: MakeProject, slurm: SlurmCluster) -> None:
    here = project(site="options: ['--gres=nothing:9']\n")
    refused = here.ask()
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("sbatch: Slurm refused the job:")
    assert "Traceback" not in refused.stderr
    assert here.run_dir.job_dirs == []
