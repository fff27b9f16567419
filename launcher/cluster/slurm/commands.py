"""Runs Slurm's commands: their words on success, one error with theirs otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Sequence

from launcher.errors import LauncherError

PATIENCE_SECONDS = 60.0
"""A busy controller answers late; one that has not by then is taken not to be there."""


class SlurmError(LauncherError):
    """One of Slurm's commands failed, or is missing; carries what it said."""

    def __init__(self, command: Sequence[str], said: str) -> None:
        self.said = said
        super().__init__(f"{command[0]}: {said}")


def has_slurm() -> bool:
    """Return whether Slurm's commands are on the path."""
    return all(shutil.which(name) for name in ("sbatch", "squeue", "scontrol"))


def of_a_job() -> set[str]:
    """Return the variables that Slurm has set for a job around this process."""
    return {name for name in os.environ if name.startswith("SLURM_")} - {"SLURM_CONF"}


def ask(*command: str, without: Collection[str] = ()) -> str:
    """Return what a command printed; `without`: variables that it must not see.

    Raises:
        SlurmError: it is missing, failed, or didn't answer.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
    except OSError as error:
        raise SlurmError(command, error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(command, f"no answer in {PATIENCE_SECONDS:g} s") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(command, said.removeprefix(f"{command[0]}: ").removeprefix("error: "))
    return done.stdout


def ask_or_empty(*command: str) -> str:
    """Return what a command printed; nothing where it has no answer."""
    try:
        return ask(*command)
    except SlurmError:
        return ""


def fields_of(line: str) -> dict[str, str]:
    """Return the KEY=value pairs of one line that `scontrol show -o` printed."""
    pairs = (word.partition("=") for word in line.split())
    return {key: value for key, equals, value in pairs if equals}
