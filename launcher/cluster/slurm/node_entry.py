"""One node of a Slurm job: `srun ... python -m launcher.cluster.slurm.node_entry JOB_FOLDER`.

Which node this is, and which is the first, is read from the variables of the step: those of the
batch script are the same on every node.
https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.cluster.launch import Carrier
from launcher.cluster.node.devices import require_this_node, visible_gpus
from launcher.cluster.nodes.carry import carry_nodes, send_regrets
from launcher.cluster.nodes.meeting import MEETING_SECONDS
from launcher.cluster.nodes.placement import Placement, port_for, require_head
from launcher.cluster.slurm.commands import ask_or_empty
from launcher.cluster.slurm.host_list import hostnames
from launcher.errors import InputError, LauncherError, Problem
from launcher.files.read import read_record, real
from launcher.recipe.consent import Consent
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.recipe.run_settings import run_folder
from launcher.run_dir import JobDir
from launcher.streams import outlive_readers

NEEDED = ("SLURM_JOB_ID", "SLURM_NODEID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST")


def main() -> int:
    """Carry this node's part of the job; return the exit code of the whole."""
    job_folder = real(Path(sys.argv[1]))
    job_dir = JobDir(job_folder)
    placement = placement_from(os.environ, job_folder)
    require_head(placement.head, placement.name_of(0))
    job = read_record(job_dir.record)
    try:
        resolved = _resolve(job_folder, job, placement)
        require_this_node(resolved, visible_gpus())
    except InputError as error:
        if not placement.node_rank:
            raise
        return send_regrets(placement, error, MEETING_SECONDS)
    carrier = Carrier(
        command="launcher submit",
        job_id=placement.job_id,
        job_folder=str(job_folder.relative_to(job_dir.run_dir.root)),
        restart_count=placement.restart_count,
    )
    return carry_nodes(resolved, run_folder(resolved), placement, carrier=carrier, prepares=False)


def placement_from(environ: Mapping[str, str], job_folder: Path) -> Placement:
    """Return this node's place in its step.

    Raises:
        InputError: this is no step of a Slurm job, or has several tasks on a node.
    """
    missing = [name for name in NEEDED if name not in environ]
    if missing:
        message = f"{', '.join(missing)} not set: this is no step of a Slurm job."
        cure = "Let `srun` start it, as the job's script does."
        raise InputError(Problem("node_entry", "", message, cure))
    num_nodes = int(environ["SLURM_STEP_NUM_NODES"])
    num_tasks = int(environ.get("SLURM_STEP_NUM_TASKS", num_nodes))
    if num_tasks != num_nodes:
        message = f"{num_tasks} tasks on {num_nodes} nodes; need one on each."
        raise InputError(
            Problem("srun", "--ntasks-per-node", message, "Write --ntasks-per-node=1.")
        )
    hosts = hostnames(environ["SLURM_STEP_NODELIST"])
    return Placement(
        num_nodes=num_nodes,
        node_rank=int(environ["SLURM_NODEID"]),
        head=_address_of(hosts[0]),
        port=port_for(environ["SLURM_JOB_ID"]),
        key_file=JobDir(job_folder).meeting_key,
        hosts=hosts,
        job_id=environ["SLURM_JOB_ID"],
        restart_count=int(environ.get("SLURM_RESTART_COUNT", "0")),
    )


def _address_of(host: str) -> str:
    """Return a name of a node that resolves: its own, else the one that Slurm itself uses.

    https://slurm.schedmd.com/slurm.conf.html#OPT_NodeAddr
    """
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        found = re.search(r"\bNodeAddr=(\S+)", ask_or_empty("scontrol", "show", "node", host))
        return found[1] if found else host
    return host


def _resolve(job_folder: Path, job: Mapping[str, Any], placement: Placement) -> ResolvedRun:
    """Resolve what was submitted: neither the user's file nor another launch plays a part."""
    consent = consent_of([str(option) for option in job.get("consent", [])])
    ranks_per_node = job.get("ranks_per_node")
    return resolve(
        JobDir(job_folder).recipe,
        [f"cluster.num_nodes={placement.num_nodes}"],
        placement.num_nodes * int(ranks_per_node) if ranks_per_node else None,
        gpus_here=visible_gpus(),
        consent=consent,
    )


def consent_of(options: list[str]) -> Consent:
    """Return what was allowed when the job was submitted."""
    parser = argparse.ArgumentParser()
    Consent.add_to(parser)
    return Consent.of(parser.parse_args(options))


if __name__ == "__main__":
    outlive_readers()
    try:
        code = main()
    except LauncherError as error:
        sys.stderr.write(f"{error}\n")
        code = error.exit_code
    sys.exit(code)
