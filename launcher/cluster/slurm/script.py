"""Writes out a job script: what recipe, site file and run folder say, in one readable file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from launcher.cluster.slurm.options import SHARED, Wanted
from launcher.cluster.slurm.quoting import as_file_name_pattern, for_bash, for_sbatch
from launcher.cluster.slurm.site_schema import Container
from launcher.errors import InputError, Problem
from launcher.files.read import read_text
from launcher.run_dir import JobDir
from launcher.shipped import shipped_folder

PASSED = (
    "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PYTHONPATH", "SHELL", "USER", "XDG_CACHE_HOME",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE",
)  # fmt: skip
"""Variables that a job gets from the shell that submits it, by name: no value is written down."""
MAX_SIGNAL_SECONDS = 65535  # man sbatch, --signal

Options = dict[str, str | None]


@dataclass(frozen=True)
class JobPlan:
    """One job, or one array of them, before its script is written."""

    name: str
    wanted: Wanted
    """Of the first task, where there are several."""
    jobs: tuple[JobDir, ...]
    """One job folder, or one a task of an array."""
    time: str | None
    lead_seconds: int
    after: tuple[str, ...] = ()
    """Numbers of the jobs that have to end well before."""

    def options(self) -> Options:
        """Return the options of sbatch, in the order they are written."""
        cluster = self.wanted.resolved.recipe.cluster
        first = self.jobs[0]
        is_array = len(self.jobs) > 1
        log = first.root / ("slurm-%A_%a.log" if is_array else "slurm-%j.log")
        options: Options = {"job-name": self.name}
        options["array"] = f"0-{len(self.jobs) - 1}" if is_array else None
        options |= {name: self.wanted.value(name) for name in SHARED}
        options |= {
            "nodes": str(cluster.num_nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(self.wanted.cpus_per_node),
            "gpus-per-node": str(cluster.gpus_per_node) if cluster.gpus_per_node else None,
            "time": self.time,
            "chdir": str(Path.cwd()),
            "output": f"{as_file_name_pattern(log.parent)}/{log.name}",
            "signal": f"USR1@{min(self.lead_seconds, MAX_SIGNAL_SECONDS)}",
            "export": ",".join(_passed(self.wanted)),
            "dependency": f"afterok:{':'.join(self.after)}" if self.after else None,
        }
        flags: Options = {"requeue": None, "open-mode": "append"}
        flags |= {"kill-on-invalid-dep": "yes"} if self.after else {}
        given = {name: value for name, value in options.items() if value is not None}
        return given | flags | _more(self.wanted)

    def script(self) -> str:
        """Return the text of the job script."""
        site = self.wanted.site.site
        container = site.container
        python = [sys.executable] if container is None else _in_container(container, self.jobs)
        return render(
            self.wanted.site.template or shipped_folder("slurm") / "train.sbatch",
            name=self.name,
            options=self.options(),
            num_nodes=self.wanted.resolved.recipe.cluster.num_nodes,
            ranks_per_node=self.wanted.ranks_per_node,
            cpus_per_node=self.wanted.cpus_per_node,
            environment={"HF_HUB_OFFLINE": "1", **site.environment},
            job_folders=[str(job.root) for job in self.jobs],
            srun_options=_pyxis(container, self.jobs),
            python=python,
            own_python=sys.executable,
            **_shell(self.wanted),
        )

    def prepare_script(self, partition: str) -> str:
        """Return the text of the script of the job that prepares the data on a CPU partition."""
        log = self.jobs[0].root
        options: Options = {"job-name": f"{self.name}-prepare", "partition": partition}
        options |= {name: self.wanted.value(name) for name in ("account", "qos")}
        options |= {
            "nodes": "1",
            "ntasks": "1",
            "chdir": str(Path.cwd()),
            "output": f"{as_file_name_pattern(log)}/prepare-%j.log",
            "open-mode": "append",
            "export": ",".join(_passed(self.wanted)),
        }
        return render(
            shipped_folder("slurm") / "prepare.sbatch",
            name=self.name,
            options={name: value for name, value in options.items() if value is not None},
            environment=self.wanted.site.site.environment,
            job_folders=[str(job.root) for job in self.jobs],
            python=[sys.executable],
            consent=self.wanted.resolved.consent.options(),
            **_shell(self.wanted),
        )


def render(template: Path, **values: Any) -> str:
    """Return a template with its values filled in; every value is quoted by a filter.

    Raises:
        InputError: the template is a user's own and doesn't fit.
    """
    # A site's template may be anybody's: it gets its values, and no way to Python.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"sh": for_bash, "sbatch": for_sbatch}
    try:
        return environment.from_string(read_text(template)).render(values)
    except Exception as error:  # a template can divide by zero, or recurse
        line = getattr(error, "lineno", None)
        place = f"{template}:{line}" if line else str(template)
        raise InputError(
            Problem(place, "", f"{error}.", "Compare it with slurm/train.sbatch.")
        ) from error


def _shell(wanted: Wanted) -> dict[str, Any]:
    """Return what every script does first."""
    site = wanted.site.site
    return {
        "modules": site.modules,
        "setup": site.setup,
        "working_folder": str(Path.cwd()),
    }


def _passed(wanted: Wanted) -> list[str]:
    names = dict.fromkeys((*PASSED, *wanted.site.site.pass_variables))
    return [name for name in names if name in os.environ]


def _more(wanted: Wanted) -> Options:
    parts = (option.removeprefix("--").partition("=") for option in wanted.site.site.options)
    return {name: value if equals else None for name, equals, value in parts}


def _mounts(container: Container, jobs: Sequence[JobDir]) -> list[str]:
    """Return what is mounted: where the command is run, the run folders, and what the site says."""
    own = [Path.cwd(), *(job.run_dir.root for job in jobs)]
    return [*dict.fromkeys(f"{path}:{path}" for path in own), *container.mounts]


def _pyxis(container: Container | None, jobs: Sequence[JobDir]) -> list[str]:
    if container is None or container.type != "pyxis":
        return []
    return [
        f"--container-image={container.image}",
        f"--container-mounts={','.join(_mounts(container, jobs))}",
        f"--container-workdir={Path.cwd()}",
    ]


def _in_container(container: Container, jobs: Sequence[JobDir]) -> list[str]:
    if container.type == "pyxis":
        return [container.python]
    mounts = [part for mount in _mounts(container, jobs) for part in ("--bind", mount)]
    inside = ["--nv", *mounts, "--pwd", str(Path.cwd()), container.image, container.python]
    return ["apptainer", "exec", *inside]
