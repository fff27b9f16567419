"""What one node says of itself before any rank is started; takes about a second, and no torch."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from launcher.cluster.hub_cache import hub_cache, is_fetched
from launcher.cluster.node.devices import visible_gpus
from launcher.cluster.node.share import Share
from launcher.files.read import read_object
from launcher.files.write import write_private
from launcher.recipe.resolve import ResolvedRun
from launcher.world import host_name

RUN_FOLDER = "run folder"
CACHE_FOLDER = "data cache"
PACKAGES = ("shardlaunch", "torch", "deepspeed", "accelerate", "transformers")
"""What has to be the same on all nodes."""
BUSY_SHARE = 0.1
"""A GPU with more of its memory in use before anything runs isn't free."""
SMI_SECONDS = 10


@dataclass(frozen=True)
class Inquiry:
    """What the head asks of every node."""

    nonce: str
    """Fresh: in the names of the files by which shared folders are told from others."""
    folders: Mapping[str, str]
    """What a folder is, and its path: each node must find the head's file there.

    In the run folder it must leave one, too.
    """
    prepared: str | None = None
    """Marker of the prepared data that has to be there; None where they are yet to be prepared."""

    def head_file(self, folder: str) -> Path:
        """Return where the head has put a file."""
        return Path(folder) / f".preflight-{self.nonce}"

    def node_file(self, folder: str, node_rank: int) -> Path:
        """Return where a node puts one."""
        return Path(folder) / f".preflight-{self.nonce}-{node_rank}"


def gather(inquiry: Inquiry, resolved: ResolvedRun, share: Share) -> dict[str, Any]:
    """Return what this node is and has, and its own problems."""
    gpus, driver, problems = _gpus()
    problems += _folder_problems(inquiry, share)
    problems += _data_problems(inquiry)
    problems += _model_problems(resolved)
    if visible_gpus() and share.ranks_per_node > visible_gpus():
        problems.append(f"shows {visible_gpus()} GPUs for {share.ranks_per_node} ranks")
    return {
        "node_rank": share.node_rank,
        "host": host_name(),
        "recipe": resolved.digest[:12],
        "ranks": share.ranks_per_node,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "driver": driver,
        "gpus": gpus,
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> tuple[list[dict[str, Any]], str | None, list[str]]:
    """Return name and free memory of each GPU, the driver's version, and what is wrong with them.

    https://docs.nvidia.com/deploy/nvidia-smi/index.html
    """
    if not visible_gpus():
        return [], None, []
    query = "name,memory.used,memory.total,driver_version"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    command += ["-i", chosen] if chosen else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS)
    except FileNotFoundError:
        return [], None, []  # in some containers
    except subprocess.TimeoutExpired:
        return [], None, [f"nvidia-smi did not answer within {SMI_SECONDS} s"]
    if done.returncode:
        return [], None, [f"nvidia-smi failed: {(done.stdout + done.stderr).strip()[:200]}"]
    return read_smi(done.stdout)


def read_smi(text: str) -> tuple[list[dict[str, Any]], str | None, list[str]]:
    """Return what `nvidia-smi` says of each GPU, the driver's version, and GPUs not free."""
    gpus: list[dict[str, Any]] = []
    driver, problems = None, []
    for number, line in enumerate(text.strip().splitlines()):
        name, used, total, driver = (part.strip() for part in line.rsplit(",", 3))
        if not (used.isdigit() and total.isdigit()):  # "[N/A]": unified memory, or MIG
            gpus.append({"name": name, "used_mib": None, "total_mib": None})
            continue
        gpus.append({"name": name, "used_mib": int(used), "total_mib": int(total)})
        if int(used) > BUSY_SHARE * int(total):
            problems.append(f"GPU {number} is not free: {used} of {total} MiB are in use")
    return gpus, driver, problems


def _folder_problems(inquiry: Inquiry, share: Share) -> list[str]:
    problems = []
    for what, folder in inquiry.folders.items():
        if not inquiry.head_file(folder).exists():
            problems.append(f"does not see the head's {what} {folder}")
            continue
        if what != RUN_FOLDER:
            continue
        try:
            write_private(inquiry.node_file(folder, share.node_rank), host_name())
        except OSError as error:
            problems.append(f"can't write to the {what} {folder}: {error.strerror}")
    return problems


def _data_problems(inquiry: Inquiry) -> list[str]:
    if inquiry.prepared is None:
        return []
    marker = read_object(Path(inquiry.prepared))
    if marker is None or not Path(str(marker.get("cache")), "done.json").is_file():
        return [f"has no prepared data ({inquiry.prepared}): run `launcher prepare` first"]
    return []


def _model_problems(resolved: ResolvedRun) -> list[str]:
    """Tell whether a hub model has been fetched; a folder has been looked at already."""
    model = resolved.recipe.model
    if resolved.model is not None or is_fetched(model.path, model.revision):
        return []
    name = f"{model.path} ({model.revision})" if model.revision else model.path
    return [f"has no copy of the model {name} in {hub_cache()}: run `launcher prepare` first"]
