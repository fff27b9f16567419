"""Python, packages, compilers, caches and keys: what a run needs installed, without loading it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from launcher import __version__
from launcher.cluster.doctor.check import Check, Verdict, gibibytes
from launcher.cluster.hub_cache import hub_cache
from launcher.cluster.node.agent import environment_for
from launcher.world import has_wandb_key

PACKAGE = "shardlaunch"
LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 20 << 30
NAME = re.compile(r"[A-Za-z0-9._-]+")


def software(*, has_gpus: bool, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Return what is installed, and where what is downloaded or written goes."""
    path = environment_for(1)["PATH"]
    return [
        _python(),
        *_packages(),
        *_compilers(path, has_gpus=has_gpus, cxx=environ.get("CXX", "g++")),
        _hub_cache(environ),
        _wandb(environ),
        *_disks(environ),
    ]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        return Check("python", "missing", found, "Install Python 3.11 or newer.")
    return Check("python", "ok", f"{found}, {sys.executable}")


def _packages() -> list[Check]:
    """Return one line for all that are there, and one for each that isn't."""
    names = [
        found[0]
        for needed in requires(PACKAGE) or []
        if "extra ==" not in needed and (found := NAME.match(needed))
    ]
    there, missing = [f"{PACKAGE} {__version__}"], []
    for name in names:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(Check("package", "missing", name, f"pip install {name}"))
    return [Check("packages", "ok", ", ".join(there)), *missing]


def _compilers(path: str, *, has_gpus: bool, cxx: str) -> list[Check]:
    """DeepSpeed compiles what CPU ranks talk by; with GPUs only offload needs a compiler."""
    verdict: Verdict = "warning" if has_gpus else "missing"
    why = "offload_optimizer needs it" if has_gpus else "every run on CPUs needs it"
    found = []
    for name, cure in (
        (cxx, "Install a C++ compiler (apt-get install g++), or load its module."),
        ("ninja", "pip install ninja"),
    ):
        where = shutil.which(name, path=path)
        found.append(
            Check(name, "ok", where)
            if where
            else Check(name, verdict, f"not found: {why}, DeepSpeed compiles with it", cure)
        )
    if has_gpus:
        nvcc = shutil.which("nvcc", path=path)
        cure = "Load the CUDA toolkit's module and set CUDA_HOME, if a recipe offloads."
        missing = Check("nvcc", "warning", "not found: DeepSpeed's CUDA operators need it", cure)
        found.append(Check("nvcc", "ok", nvcc) if nvcc else missing)
    return found


def _hub_cache(environ: Mapping[str, str]) -> Check:
    folder = hub_cache()
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if environ.get(name)]
    state = f"offline ({', '.join(offline)})" if offline else "online where the network lets it"
    if _is_writable(_existing(folder)):
        return Check("hub cache", "ok", f"{folder}, {state}")
    cure = "Set HF_HOME to a folder that you may write to and that all nodes share."
    return Check("hub cache", "warning", f"{folder} is not writable, {state}", cure)


def _wandb(environ: Mapping[str, str]) -> Check:
    if has_wandb_key(environ):
        return Check("wandb key", "ok", "there")
    return Check("wandb key", "ok", "none: runs with wandb are kept offline (`wandb login`)")


def _disks(environ: Mapping[str, str]) -> list[Check]:
    places = [("disk here", Path.cwd())]
    temporary = environ.get("SLURM_TMPDIR") or environ.get("TMPDIR") or "/tmp"
    places.append(("disk for temporary files", Path(temporary)))
    return [_disk(name, folder) for name, folder in places]


def _disk(name: str, folder: Path) -> Check:
    usage = shutil.disk_usage(_existing(folder))
    found = f"{gibibytes(usage.free)} free of {gibibytes(usage.total)}, {folder}"
    if usage.free >= LEAST_FREE_BYTES:
        return Check(name, "ok", found)
    return Check(name, "warning", found, "Make room; `launcher check` says what a run needs.")


def _is_writable(folder: Path) -> bool:
    """Try it: permissions alone don't tell of read-only mounts, nor what a server forbids root."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
