"""Every path of a run folder, named once."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from launcher.files.read import real
from launcher.files.remove import remove_file

DEEPSPEED, CHAT_TEMPLATE = "deepspeed", "model.chat_template"
"""Recipe keys that name a small file."""
MANIFEST = "manifest.json"
"""A checkpoint exists once its folder has this file."""
COPIES = {DEEPSPEED: "deepspeed.json", CHAT_TEMPLATE: "chat_template.jinja"}
"""Recipe key -> name of the copy, beside the resolved recipe of a run or of a job."""


@dataclass(frozen=True)
class LogDir:
    """`logs/<launch>/`: what one launch printed, and what ended its ranks."""

    root: Path

    @property
    def launch(self) -> Path:
        """What `accelerate launch` itself printed, on the first node."""
        return self.root / "launch.log"

    def launch_on(self, node_rank: int) -> Path:
        """What `accelerate launch` itself printed on one node."""
        return self.root / f"launch-node-{node_rank}.log" if node_rank else self.launch

    @property
    def preflight(self) -> Path:
        """JSON of what the nodes said of themselves before any rank was started."""
        return self.root / "preflight.json"

    def rank(self, rank: int) -> Path:
        """Everything that one rank printed."""
        return self.root / f"rank-{rank}.log"

    @property
    def rank_logs(self) -> list[Path]:
        """The logs of the ranks that there are, by rank."""
        return _numbered(self.root, "rank-", ".log")

    def failure(self, rank: int) -> Path:
        """JSON of the error that ended one rank: time, rank, host, kind, message, traceback."""
        return self.root / f"failure-rank-{rank}.json"

    @property
    def failures(self) -> list[Path]:
        """The failure files that there are."""
        return _numbered(self.root, "failure-rank-", ".json")

    def heartbeat(self, rank: int) -> Path:
        """JSON that one rank writes every second: its process, phase, step, and when."""
        return self.root / f"heartbeat-rank-{rank}.json"

    @property
    def heartbeats(self) -> list[Path]:
        """The heartbeat files that there are."""
        return _numbered(self.root, "heartbeat-rank-", ".json")

    def stacks(self, rank: int) -> Path:
        """Python stacks of all threads of one rank, dumped when it or another rank hangs."""
        return self.root / f"stacks-rank-{rank}.txt"

    @property
    def all_stacks(self) -> list[Path]:
        """The stacks files that there are."""
        return _numbered(self.root, "stacks-rank-", ".txt")

    @property
    def stopped(self) -> Path:
        """JSON of a clean stop: step and reason."""
        return self.root / "stopped.json"

    @property
    def cause(self) -> Path:
        """JSON of the one root cause of a failed launch, as its parent found it."""
        return self.root / "cause.json"

    @property
    def attempt(self) -> Path:
        """JSON of what this launch is: command, job, nodes, ranks, when it began and ended."""
        return self.root / "attempt.json"

    @property
    def watchdog(self) -> Path:
        """JSON of what the watchdog saw when it ended a launch: late ranks, phase, step, stacks."""
        return self.root / "watchdog.json"


@dataclass(frozen=True)
class JobDir:
    """`jobs/<number>/`: one Slurm job as it was submitted, and what its steps came to."""

    root: Path

    @property
    def run_dir(self) -> RunDir:
        """The run folder that it lies in."""
        return RunDir(self.root.parent.parent)

    @property
    def script(self) -> Path:
        """What sbatch got."""
        return self.root / "job.sbatch"

    @property
    def prepare_script(self) -> Path:
        """What sbatch got for the job that prepares the data, where there is one."""
        return self.root / "prepare.sbatch"

    @property
    def recipe(self) -> Path:
        """The resolved recipe as submitted: what the job runs, whatever is edited since."""
        return self.root / "recipe.yaml"

    @property
    def record(self) -> Path:
        """JSON of what was submitted: job number, options, geometry, time, dependencies."""
        return self.root / "job.json"

    @property
    def ended(self) -> Path:
        """One JSON record each time that a step of the job ended."""
        return self.root / "ended.jsonl"

    @property
    def meeting_key(self) -> Path:
        """Random digits that the nodes of the job know each other by."""
        return self.root / "meeting.key"

    def log(self, job_id: str) -> Path:
        """What the job printed, over all its requeues; `%j` is its number to sbatch."""
        return self.root / f"slurm-{job_id}.log"

    def prepare_log(self, job_id: str) -> Path:
        """What the job that prepares the data printed."""
        return self.root / f"prepare-{job_id}.log"


@dataclass(frozen=True)
class RunDir:
    """`runs/<name>/`: what was asked, what was resolved, records, logs, checkpoints, export."""

    root: Path

    @property
    def recipe(self) -> Path:
        """The recipe as the user wrote it."""
        return self.root / "recipe.yaml"

    @property
    def resolved(self) -> Path:
        """The recipe after `extends`, `--set` and defaults: every key explicit."""
        return self.root / "resolved.yaml"

    @property
    def changes(self) -> Path:
        """One JSON record per recipe key that was changed on purpose while the run was going on."""
        return self.root / "changes.jsonl"

    @property
    def ds_config(self) -> Path:
        """The DeepSpeed config that the engine gets, every `"auto"` filled."""
        return self.root / "ds_config.json"

    @property
    def accelerate(self) -> Path:
        """The derived `accelerate launch` config."""
        return self.root / "accelerate.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON record per logged step and per evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Start, resume, signal, checkpoint, early stop, failure, finish."""
        return self.root / "events.jsonl"

    @property
    def data_report(self) -> Path:
        """What the data are: counts, lengths, dropped and truncated rows, labels."""
        return self.root / "data.json"

    @property
    def summary(self) -> Path:
        """The outcome of a finished run; its presence means that nothing is left to do."""
        return self.root / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints' folders, `step-000100` and so on."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """What the weights need to be read: config, tokenizer, adapter settings; no tensors."""
        return self.root / "model"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint taken after optimizer step `step`."""
        return self.checkpoints / _name(step, "step-", digits=6)

    @property
    def all_checkpoints(self) -> list[Path]:
        """The checkpoint folders that there are, committed or not, in the order of their steps."""
        return _folders(self.checkpoints, "step-", digits=6)

    @property
    def committed(self) -> list[Path]:
        """Those that have a manifest, the oldest first; their files are not verified."""
        return [folder for folder in self.all_checkpoints if (folder / MANIFEST).exists()]

    @property
    def best(self) -> Path:
        """Symbolic link to the checkpoint with the best monitored metric."""
        return self.root / "best"

    @property
    def latest(self) -> Path:
        """Symbolic link to the newest committed checkpoint."""
        return self.root / "latest"

    @property
    def export(self) -> Path:
        """Weights for others: safetensors, tokenizer, model card."""
        return self.root / "export"

    @property
    def stop_request(self) -> Path:
        """JSON that asks a running launch to stop cleanly; the next launch removes it."""
        return self.root / "stop.json"

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody has asked a launch of this run to stop."""
        return self.stop_request.is_file()

    def take_back_stop(self) -> None:
        """Forget that a stop was asked for; a folder of that name asks for nothing."""
        with contextlib.suppress(IsADirectoryError):
            remove_file(self.stop_request, within=self.root)

    @property
    def lock(self) -> Path:
        """JSON of the process that holds this folder; only one launch may write to it."""
        return self.root / "lock.json"

    @property
    def submit_lock(self) -> Path:
        """JSON of the process that submits this run; its job may take `lock` before that ends."""
        return self.root / "submit-lock.json"

    @property
    def meeting_key(self) -> Path:
        """What the nodes of a launch prove to each other that they know; its owner's alone."""
        return self.root / "meeting.key"

    @property
    def timings(self) -> Path:
        """JSON of the longest step, save and evaluation batch seen lately, in seconds."""
        return self.root / "timings.json"

    @property
    def report(self) -> Path:
        """The self-contained HTML page."""
        return self.root / "report.html"

    @property
    def wandb(self) -> Path:
        """The parent folder of wandb's own files."""
        return self.root / "wandb"

    def logs(self, attempt: int) -> LogDir:
        """The logs of one launch; launches count from 1."""
        return LogDir(self.root / "logs" / _name(attempt, digits=3))

    @property
    def jobs(self) -> Path:
        """The folder of the Slurm jobs that were submitted for this run."""
        return self.root / "jobs"

    def job(self, number: int) -> JobDir:
        """The folder of one job; jobs count from 1."""
        return JobDir(self.jobs / _name(number, digits=3))

    def next_job(self) -> JobDir:
        """Return the folder that the next job gets; nothing is made yet."""
        return self.job(_next(self.jobs))

    @property
    def job_dirs(self) -> list[JobDir]:
        """The folders of all jobs so far, oldest first."""
        return [JobDir(path) for path in _folders(self.jobs, digits=3)]

    def keeps(self, recipe: Path) -> bool:
        """Tell whether a recipe is one that was resolved into this folder, for it or for a job."""
        path = real(recipe)
        return path == real(self.resolved) or path in (real(job.recipe) for job in self.job_dirs)

    def next_logs(self) -> LogDir:
        """Return where the logs of the next launch go; nothing is made yet."""
        return self.logs(_next(self.root / "logs"))

    @property
    def launches(self) -> list[LogDir]:
        """The logs of all launches so far, oldest first."""
        return [LogDir(path) for path in _folders(self.root / "logs", digits=3)]


def is_kept_recipe(recipe: Path) -> bool:
    """Tell whether some run or job keeps this recipe, with copies of what it names."""
    path = real(recipe)
    is_of_a_run = path == RunDir(path.parent).resolved
    if is_of_a_run and path.with_name(COPIES[DEEPSPEED]).is_file():
        return True
    return JobDir(path.parent).run_dir.keeps(path)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint folder, which its name says."""
    return int(checkpoint.name.removeprefix("step-"))


def rank_of(path: Path) -> int:
    """Return the rank whose log this is."""
    return int(path.stem.rpartition("-")[2])


def _name(number: int, before: str = "", after: str = "", *, digits: int = 1) -> str:
    return f"{before}{number:0{digits}d}{after}"


def _folders(folder: Path, before: str = "", *, digits: int) -> list[Path]:
    return [path for path in _numbered(folder, before, digits=digits) if path.is_dir()]


def _next(folder: Path) -> int:
    taken = _numbered(folder, digits=3)  # be it a folder or not
    return 1 + int(taken[-1].name) if taken else 1


def _numbered(folder: Path, before: str = "", after: str = "", *, digits: int = 1) -> list[Path]:
    """Return what `_name` names in a folder, in the order of the numbers: `10` comes after `9`.

    Whatever has another name isn't ours. A folder that isn't there or can't be read holds nothing.
    """
    pattern = re.compile(f"{re.escape(before)}([0-9]{{1,18}}){re.escape(after)}")
    found = {}
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    for name in names:
        match = pattern.fullmatch(name)
        if match and name == _name(int(match[1]), before, after, digits=digits):
            found[int(match[1])] = folder / name
    return [found[number] for number in sorted(found)]
