"""This machine: prepares, starts the ranks, watches them, starts them again where that helps."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.cluster.node.agent import (
    environment_for,
    start_agent,
    start_tied,
    write_accelerate_config,
)
from launcher.cluster.node.devices import require_this_machine, visible_gpus
from launcher.cluster.node.signals import StopSignals
from launcher.cluster.node.supervise import supervise
from launcher.cluster.outcome import (
    clean_stop,
    find_cause,
    print_stop,
    print_summary,
    print_warnings,
    say,
)
from launcher.cluster.restarts import Restarts
from launcher.lock import hold
from launcher.recipe.check import KeyedRule
from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.recipe.run_settings import run_folder, write_settings
from launcher.run_dir import RunDir


def prepare_data(recipe: Path, overrides: Sequence[str], consent: Consent = NO_CONSENT) -> int:
    """Tokenise the data of a recipe in a process of its own; return its exit code."""
    resolve(recipe, overrides, consent=consent)
    command = _prepare_command(recipe, consent) + _as_options(overrides)
    return subprocess.run(command, env=environment_for(1)).returncode


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
    return subprocess.run(command, env=environment_for(1)).returncode


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
        resolved = resolve(
            recipe, renamed, processes, gpus_here=num_gpus, consent=consent, rules=rules
        )
    require_this_machine(resolved, num_gpus, processes)
    run_dir = run_folder(resolved)
    if run_dir.summary.exists():
        print_summary(run_dir, already=True)
        return 0
    limit = resolved.recipe.run.max_hours
    deadline = None if limit is None else time.monotonic() + 3600 * limit
    with hold(run_dir.lock, "launcher run"), StopSignals() as signals:
        run_dir.stop_request.unlink(missing_ok=True)
        print_warnings(resolved)
        write_settings(resolved, run_dir)
        write_accelerate_config(resolved, run_dir)
        prepared = _prepare(run_dir, consent, signals)
        if signals.asked is not None:
            return print_stop(run_dir, {"step": 0, "reason": signals.asked.name})
        return prepared or _carry(resolved, run_dir, signals, deadline)


def _carry(
    resolved: ResolvedRun, run_dir: RunDir, signals: StopSignals, deadline: float | None
) -> int:
    """Start the ranks, again and again where a restart is allowed and brings the run forward."""
    settings = resolved.recipe.run
    restarts = Restarts(run_dir, settings.max_restarts, deadline)
    while True:
        logs = run_dir.logs(1 + len(run_dir.launches))
        logs.root.mkdir(parents=True)
        agent = start_agent(resolved, run_dir, logs, deadline)
        ending = supervise(agent, logs, resolved.world_size, settings.timeout_seconds, signals)
        if ending.code == 0 and run_dir.summary.exists():
            print_summary(run_dir)
            return 0
        stopped = clean_stop(ending, logs)
        if stopped is not None:
            return print_stop(run_dir, stopped)
        cause = find_cause(ending, logs)
        cause.write(logs)
        say(cause.text)
        if signals.asked is not None or run_dir.stop_request.exists():
            return cause.exit_code
        why_not = restarts.why_not(cause, ending.step)
        if why_not is not None:
            if why_not:
                say(why_not)
            return cause.exit_code
        say(f"restart {restarts.done} of {restarts.most} from step-{restarts.newest:06d}.")


def _prepare(run_dir: RunDir, consent: Consent, signals: StopSignals) -> int:
    """Tokenise the data in a process that a stop signal ends: what it has done is kept."""
    process = start_tied(_prepare_command(run_dir.resolved, consent), environment_for(1))
    while process.poll() is None:
        if signals.asked is not None:
            process.terminate()
        time.sleep(0.05)
    return process.returncode


def _prepare_command(recipe: Path, consent: Consent) -> list[str]:
    return [sys.executable, "-m", "launcher.train.prepare", str(recipe), *consent.options()]


def _as_options(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _free_name(resolved: ResolvedRun) -> str:
    """Return the first of NAME, NAME-2, NAME-3 ... that has no folder yet."""
    run = resolved.recipe.run
    names = itertools.chain([run.name], (f"{run.name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not (Path(run.dir) / name).exists())
