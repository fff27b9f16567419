"""The job script as a whole, against tests/golden/job.sbatch, and what changes it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launcher.cluster.slurm.script import JobPlan
from launcher.errors import InputError
from launcher.run_dir import RunDir
from tests.unit.cluster.slurm.conftest import MakeWanted

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "job.sbatch"
SITE = """
partition: gpu
account: lab
options: ["--exclusive", "--mem=0"]
modules: [cuda/12.8]
setup: ["ulimit -l unlimited"]
environment: {NCCL_DEBUG: WARN, GREETING: "it's $HOME"}
"""


def plan(make: MakeWanted, *overrides: str, site: str = SITE, tasks: int = 1) -> JobPlan:
    wanted = make("cluster.num_nodes=2", "cluster.gpus_per_node=4", *overrides, site=site)
    jobs = [RunDir(Path.cwd() / "runs" / f"my run {task}").job(1) for task in range(tasks)]
    return JobPlan("my-run", wanted, tuple(jobs), "24:00:00", 240)


def shown(text: str) -> str:
    """Return a script with what depends on the machine replaced."""
    return text.replace(str(Path.cwd()), "/project").replace(sys.executable, "/env/bin/python")


def test_the_script_is_the_golden_one(wanted: MakeWanted) -> None:
    assert shown(plan(wanted).script()) == GOLDEN.read_text()


def test_no_secret_is_written_down(wanted: MakeWanted) -> None:
    script = plan(wanted).script()
    assert "WANDB_API_KEY" in script
    assert "canary" not in script
    assert "canary" not in plan(wanted).prepare_script("cpu")


def test_an_array_finds_its_job_folder_by_its_task(wanted: MakeWanted) -> None:
    script = shown(plan(wanted, tasks=3).script())
    assert "#SBATCH --array=0-2\n" in script
    assert "job_folders=(\n  '/project/runs/my run 0/jobs/001'\n" in script
    assert "job_folder=${job_folders[$SLURM_ARRAY_TASK_ID]}\n" in script
    assert 'exec >>"$job_folder/slurm-$SLURM_JOB_ID.log" 2>&1\n' in script


def test_pyxis(wanted: MakeWanted) -> None:
    container = "container: {type: pyxis, image: 'nvcr.io#nvidia/pytorch:25.06', mounts: [/data]}"
    script = shown(plan(wanted, site=container).script())
    assert "  '--container-image=nvcr.io#nvidia/pytorch:25.06' \\\n" in script
    assert "/project:/project,/project/runs/my run 0:/project/runs/my run 0,/data" in script
    assert "  python3 -m launcher.cluster.slurm.node_entry" in script
    assert "\nstep=(/env/bin/python -m launcher.cluster.slurm.step" in script


def test_apptainer(wanted: MakeWanted) -> None:
    container = "container: {type: apptainer, image: /images/l.sif, mounts: ['/data:/data:ro']}"
    script = shown(plan(wanted, site=container).script())
    assert (
        "  apptainer exec --nv --bind /project:/project --bind '/project/runs/my run 0:/project/"
        "runs/my run 0' --bind /data:/data:ro --pwd /project /images/l.sif python3 -m launcher."
    ) in script


def test_the_job_that_prepares_asks_for_no_gpu(wanted: MakeWanted) -> None:
    script = shown(plan(wanted).prepare_script("cpu"))
    assert "--gpus" not in script
    assert "#SBATCH --partition=cpu\n" in script
    assert "#SBATCH --account=lab\n" in script
    assert (
        "/env/bin/python -m launcher.train.prepare '/project/runs/my run 0/jobs/001/recipe.yaml'"
        " || exit\n"
    ) in script


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ partition_name }}", "'partition_name' is undefined"),
        ("\n{% for %}", "my.sbatch:2: "),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ cycler.__init__.__globals__.os.system('touch made') }}", "is unsafe"),
    ],
)
def test_a_template_that_does_not_fit(
    wanted: MakeWanted, tmp_path: Path, template: str, words: str
) -> None:
    (tmp_path / "my.sbatch").write_text(template)
    with pytest.raises(InputError) as caught:
        plan(wanted, site="template: my.sbatch").script()
    assert words in str(caught.value)
