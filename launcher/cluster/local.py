"""This machine: prepares, starts the ranks, watches them, starts them again where that helps."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.cluster.launch import Launch, carry, monotonic_deadline
from launcher.cluster.node.agent import (
    Meeting,
    environment_for,
    free_port,
    start_tied,
    write_accelerate_config,
)
from launcher.cluster.node.devices import require_this_machine, visible_gpus
from launcher.cluster.node.share import Share
from launcher.cluster.node.signals import StopSignals
from launcher.cluster.node.supervise import Alone
from launcher.cluster.outcome import print_prepared, print_stop, print_summary, print_warnings
from launcher.cluster.report import Result, merge
from launcher.errors import InputError
from launcher.lock import hold
from launcher.recipe.check import KeyedRule
from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.prepared import prepared_before
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.recipe.run_settings import run_folder, write_settings
from launcher.run_dir import LogDir, RunDir
from launcher.world import host_name


def prepare_data(
    recipe: Path,
    overrides: Sequence[str],
    processes: int | None = None,
    consent: Consent = NO_CONSENT,
) -> int:
    """Tokenise the data of a recipe in a process of its own; return its exit code."""
    resolved = resolve(recipe, overrides, processes, gpus_here=visible_gpus(), consent=consent)
    command = _prepare_command(recipe, resolved) + _as_options(overrides)
    with StopSignals() as signals:
        return _run_tied(command, signals)


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
    with StopSignals() as signals:
        return _run_tied(command, signals)


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
        InputError: the recipe can't be run on this machine, or another launch holds its folder.
    """
    num_gpus = visible_gpus()
    while True:
        resolved = resolve_launch(
            recipe, overrides, processes, num_gpus, fresh=fresh, consent=consent, rules=rules
        )
        require_this_machine(resolved, num_gpus, processes)
        run_dir = run_folder(resolved)
        if run_dir.summary.exists():
            print_summary(run_dir, already=True)
            return 0
        try:
            lock = hold(run_dir.lock, "launcher run")
            break
        except InputError:
            if not fresh:
                raise
            # Another launch has just taken this name: the next one is free.
    deadline = monotonic_deadline(resolved.recipe.run.max_hours)
    with lock, StopSignals() as signals:
        run_dir.take_back_stop()
        print_warnings(resolved)
        write_settings(resolved, run_dir)
        write_accelerate_config(resolved, run_dir, num_nodes=1)
        prepared = prepare_here(resolved, run_dir, signals)
        if signals.asked is not None:
            return print_stop(run_dir, {"step": 0, "reason": signals.asked.name})
        if prepared:
            return prepared
        launch = Launch(resolved, run_dir, Share(resolved.world_size), signals, deadline)
        return carry(launch, OneNode(launch))


def resolve_launch(
    recipe: Path,
    overrides: Sequence[str],
    processes: int | None,
    gpus_here: int,
    *,
    fresh: bool,
    consent: Consent,
    rules: Sequence[KeyedRule],
) -> ResolvedRun:
    """Resolve a recipe for a launch that starts now; with `fresh`, in a folder not there yet."""
    resolved = resolve(
        recipe,
        overrides,
        processes,
        gpus_here=gpus_here,
        fresh=fresh,
        consent=consent,
        rules=rules,
    )
    if not fresh:
        return resolved
    renamed = [*overrides, f"run.name={_free_name(resolved)}"]
    return resolve(recipe, renamed, processes, gpus_here=gpus_here, consent=consent, rules=rules)


class OneNode:
    """This machine alone, as the crew of a launch."""

    hosts: Sequence[str] = (host_name(),)
    why_no_restart = ""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def run(self, logs: LogDir) -> Result:
        """Start the ranks, watch them to their end, and return how it was."""
        report = self._launch.carry_share(logs, Meeting(free_port()), Alone())
        return merge([report], [], logs)


def prepare_here(resolved: ResolvedRun, run_dir: RunDir, signals: StopSignals) -> int:
    """Tokenise the data, unless they are ready; return the exit code.

    A stop signal ends the process that does it; finished work is kept.
    """
    summary = prepared_before(resolved, run_dir)
    if summary is not None:
        print_prepared(summary)
        return 0
    return _run_tied(_prepare_command(run_dir.resolved, resolved), signals)


def _prepare_command(recipe: Path, resolved: ResolvedRun) -> list[str]:
    command = [sys.executable, "-m", "launcher.train.prepare", str(recipe)]
    # One resolution: the process there doesn't know of this command's options, nor of GPUs.
    return [*command, "--processes", str(resolved.world_size), *resolved.consent.options()]


def _run_tied(command: Sequence[str], signals: StopSignals) -> int:
    """Run a process that ends with this one; return its exit code, as a shell has it.

    A stop signal ends it.
    """
    process = start_tied(command, environment_for(1))
    while process.poll() is None:
        if signals.asked is not None:
            process.terminate()
        time.sleep(0.05)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _as_options(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _free_name(resolved: ResolvedRun) -> str:
    """Return the first of NAME, NAME-2, NAME-3 ... that has no folder yet."""
    run = resolved.recipe.run
    names = itertools.chain([run.name], (f"{run.name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not (Path(run.dir) / name).exists())
