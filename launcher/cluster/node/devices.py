"""The GPUs of this machine, counted without loading torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from launcher.errors import InputError, Problem
from launcher.recipe.resolve import ResolvedRun

NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus(environ: Mapping[str, str] = os.environ, driver: Path = NVIDIA_DRIVER) -> int:
    """Return how many NVIDIA GPUs a process started here would see."""
    present = len(list(driver.iterdir())) if driver.is_dir() else len(_device_files())
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return min(present, len([name for name in chosen.split(",") if name.strip() not in ("", "-1")]))


def _device_files() -> list[Path]:
    """In containers the driver's folder may be hidden while the device files are there."""
    return list(Path("/dev").glob("nvidia[0-9]*"))


def require_this_node(resolved: ResolvedRun, num_gpus: int) -> None:
    """Raise an InputError if this machine can't carry its part of a run on several nodes."""
    cluster = resolved.recipe.cluster
    key = "cluster.gpus_per_node"
    place = resolved.origins.get(key, str(resolved.source))
    ranks = resolved.world_size // cluster.num_nodes
    if cluster.gpus_per_node and not num_gpus:
        message = f"{cluster.gpus_per_node} GPUs a node, and this one shows none."
        raise InputError(Problem(place, key, message, "Run it where they are."))
    if num_gpus and ranks > num_gpus:
        message = f"{ranks} ranks a node, and this one shows {num_gpus} GPUs."
        raise InputError(Problem(place, key, message, f"Write {num_gpus}, or fewer."))


def require_this_machine(resolved: ResolvedRun, num_gpus: int, processes: int | None) -> None:
    """Raise an InputError if this machine can't carry the run.

    `processes`: the number of ranks that was asked for on the command line, which goes before what
    the recipe says of nodes and GPUs.
    """
    cluster = resolved.recipe.cluster
    if processes is None and cluster.num_nodes > 1:
        problem = (
            "cluster.num_nodes",
            f"{cluster.num_nodes} nodes, and `launcher run` is this machine alone.",
            "Start it on each with --num-nodes, --node-rank and --head, or give --processes N.",
        )
    elif processes is None and cluster.gpus_per_node and not num_gpus:
        problem = (
            "cluster.gpus_per_node",
            f"{cluster.gpus_per_node} GPUs, and this machine shows none.",
            "Run it where they are, or name CPU ranks with --processes N.",
        )
    elif num_gpus and resolved.world_size > num_gpus:
        problem = (
            "cluster.gpus_per_node",
            f"{resolved.world_size} ranks, and this machine shows {num_gpus} GPUs.",
            f"Use --processes {num_gpus}, or fewer.",
        )
    else:
        return
    key, message, cure = problem
    raise InputError(Problem(resolved.origins.get(key, str(resolved.source)), key, message, cure))
