"""Real launches through the `launcher` command, with their processes at hand.

Each is a fork of a process that has imported the libraries, if a fork can have its variables; with
`forked=False` it is the installed command, started as a user starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.process import Process, children_of
from launcher.run_dir import LogDir, RunDir
from tests.support.forkserver import ForkedProcess, can_fork
from tests.support.training import run_folder, write_recipe

LAUNCHER = str(Path(sys.executable).with_name("launcher"))
DEADLINE_SECONDS = 240.0
ENDLESS = 1_000_000
"""Steps that no test waits for; also an interval that never comes."""

Running = subprocess.Popen[str] | ForkedProcess
_started: list[Running] = []


def start(
    *words: str | Path,
    forked: bool = True,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    namespace: str = "",
) -> Running:
    """Start a command of the launcher; `environment` comes on top of this process's own.

    `namespace`: the network of a fork.
    """
    variables = os.environ | (environment or {})
    arguments = [str(word) for word in words]
    if forked and can_fork(variables):
        command = [sys.executable, "-m", "launcher.cli", *arguments]
        _started.append(ForkedProcess(command, variables, folder, namespace))
    else:
        _started.append(
            subprocess.Popen(
                [LAUNCHER, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=variables,
                cwd=folder,
                start_new_session=True,  # a signal to its group then isn't one to the tests
            )
        )
    return _started[-1]


@contextmanager
def ended() -> Iterator[None]:
    """Kill what was started meanwhile and still runs: a failed test leaves nobody training."""
    before = len(_started)
    try:
        yield
    finally:
        for process in _started[before:]:
            if process.poll() is None:
                process.kill()  # its agent and its ranks are tied to it
                process.wait(DEADLINE_SECONDS)
        del _started[before:]


def run(
    *words: str | Path,
    forked: bool = True,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command of the launcher to its end."""
    process = start(*words, forked=forked, environment=environment, folder=folder)
    stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    return subprocess.CompletedProcess([*words], process.returncode, stdout, stderr)


class Launch:
    """One running `launcher run`."""

    def __init__(
        self, folder: Path, recipe: dict[str, Any], *options: str, forked: bool = True
    ) -> None:
        self.run_dir: RunDir = run_folder(recipe)
        self.recipe = write_recipe(folder, recipe)
        self.process = start("run", self.recipe, *options, forked=forked)

    @property
    def logs(self) -> LogDir:
        """The logs of its newest attempt."""
        return self.run_dir.launches[-1]

    def agent(self) -> Process:
        """Return the process that is, or will be, `accelerate launch`."""
        (agent,) = children_of(self.process.pid)
        return agent

    def ranks(self) -> list[Process]:
        """Return the rank processes, in order of rank."""
        found = {child.variable("RANK"): child for child in children_of(self.agent().pid)}
        return [found[rank] for rank in sorted(rank for rank in found if rank is not None)]

    def beat(self, rank: int) -> dict[str, Any]:
        """Return the last heartbeat of a rank; empty where there is none."""
        try:
            beat: dict[str, Any] = json.loads(self.logs.heartbeat(rank).read_text())
        except (OSError, ValueError, IndexError):
            return {}
        return beat

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; fail with what the launch printed if it ends before."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        """Wait until rank 0 has recorded that many steps."""
        metrics = self.run_dir.metrics
        self.wait_for(lambda: metrics.exists() and f'"step":{step},' in compact(metrics))

    def wait_for_checkpoint(self, step: int) -> None:
        """Wait until the checkpoint of a step is committed."""
        self.wait_for((self.run_dir.checkpoint(step) / "manifest.json").exists)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code, standard output and standard error."""
        stdout, stderr = self.process.communicate(timeout=DEADLINE_SECONDS)
        assert self.process.returncode is not None
        return self.process.returncode, stdout, stderr


def compact(path: Path) -> str:
    """Return a file of JSON records without the spaces that JSON allows."""
    return path.read_text().replace(" ", "")


def launch(
    folder: Path,
    recipe: dict[str, Any],
    *options: str,
    forked: bool = True,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `launcher run` to its end."""
    path = write_recipe(folder, recipe)
    return run("run", path, *options, forked=forked, environment=environment)
