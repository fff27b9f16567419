"""This machine: starts `accelerate launch` and turns its end into one summary or one root cause."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from launcher.cluster.devices import require_this_machine, visible_gpus
from launcher.cluster.outcome import explain_failure, print_summary, print_warnings
from launcher.recipe.check import KeyedRule
from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.recipe.run_settings import run_folder, write_settings
from launcher.run_dir import LogDir, RunDir
from launcher.world import LOGS_VARIABLE

BIN = Path(sys.executable).parent


def prepare_data(recipe: Path, overrides: Sequence[str], consent: Consent = NO_CONSENT) -> int:
    """Tokenise the data of a recipe in a process of its own; return its exit code."""
    resolve(recipe, overrides, consent=consent)
    command = [sys.executable, "-m", "launcher.train.prepare", str(recipe), *consent.options()]
    return subprocess.run(command + _as_options(overrides), env=_environment(1)).returncode


def export_run(
    run_folder: Path,
    *,
    weights: str | None,
    merge: bool,
    out: Path | None,
    consent: Consent = NO_CONSENT,
) -> int:
    """Export a run in a process of its own; return its exit code."""
    command = [sys.executable, "-m", "launcher.checkpoint.export", str(run_folder)]
    command += ["--weights", weights] if weights else []
    command += ["--merge"] if merge else []
    command += ["--out", str(out)] if out else []
    command += consent.options()
    return subprocess.run(command, env=_environment(1)).returncode


def run_local(
    recipe: Path,
    overrides: Sequence[str],
    processes: int | None,
    *,
    fresh: bool,
    consent: Consent = NO_CONSENT,
    rules: Sequence[KeyedRule] = (),
) -> int:
    """Prepare, start the ranks, wait, and say in a few lines what came of it.

    `rules` are checked together with the recipe's own.

    Raises:
        InputError: the recipe can't be run on this machine.
    """
    num_gpus = visible_gpus()
    resolved = resolve(
        recipe,
        overrides,
        processes,
        gpus_here=num_gpus,
        fresh=fresh,
        consent=consent,
        rules=rules,
    )
    if fresh:
        renamed = [*overrides, f"run.name={_free_name(resolved)}"]
        resolved = resolve(recipe, renamed, processes, gpus_here=num_gpus, consent=consent)
    require_this_machine(resolved, num_gpus, processes)
    run_dir = run_folder(resolved)
    if run_dir.summary.exists():
        print_summary(run_dir, already=True)
        return 0
    print_warnings(resolved)
    logs = _open_logs(resolved, run_dir)
    prepared = prepare_data(run_dir.resolved, (), consent)
    if prepared:
        return prepared
    code = _launch(resolved, run_dir, logs)
    if code == 0:
        print_summary(run_dir)
        return 0
    return explain_failure(logs, code)


def _free_name(resolved: ResolvedRun) -> str:
    """Return the first of NAME, NAME-2, NAME-3 ... that has no folder yet."""
    run = resolved.recipe.run
    names = itertools.chain([run.name], (f"{run.name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not (Path(run.dir) / name).exists())


def _open_logs(resolved: ResolvedRun, run_dir: RunDir) -> LogDir:
    """Write what the ranks and the agent read; return this launch's new log folder."""
    write_settings(resolved, run_dir)
    with run_dir.accelerate.open("w") as file:
        YAML().dump(accelerate_config(resolved, run_dir), file)
    logs = run_dir.logs(1 + len(run_dir.launches))
    logs.root.mkdir(parents=True)
    return logs


def accelerate_config(resolved: ResolvedRun, run_dir: RunDir) -> dict[str, Any]:
    """Return the derived `accelerate launch` config: the user's own defaults play no part."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "deepspeed_config_file": str(run_dir.ds_config),
            "zero3_init_flag": resolved.zero_stage == 3,
        },
        "num_processes": resolved.world_size,
        "num_machines": 1,
        "machine_rank": 0,
        "main_training_function": "main",
        "use_cpu": False,
    }


def _launch(resolved: ResolvedRun, run_dir: RunDir, logs: LogDir) -> int:
    """Run `accelerate launch` to its end; its own messages go to launch.log."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(run_dir.accelerate)]
    command += ["--main_process_port", str(_free_port())]
    command += ["-m", "launcher.train", str(run_dir.resolved), *resolved.consent.options()]
    environment = _environment(resolved.world_size) | {LOGS_VARIABLE: str(logs.root)}
    with logs.launch.open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return _wait(process)
        finally:
            signal.signal(signal.SIGTERM, previous)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the agent; Ctrl-C reaches it from the terminal, so it is only waited for."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _environment(world_size: int) -> dict[str, str]:
    """Return this environment with what DeepSpeed and torch need of it."""
    environment = dict(os.environ)
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    # DeepSpeed compiles with the ninja it finds: this installation's, also without an activated
    # environment. Another version would compile everything anew.
    environment["PATH"] = os.pathsep.join((str(BIN), environment.get("PATH", os.defpath)))
    if not visible_gpus():
        environment["DS_ACCELERATOR"] = "cpu"
        threads = max(1, len(os.sched_getaffinity(0)) // world_size)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment


def _as_options(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
