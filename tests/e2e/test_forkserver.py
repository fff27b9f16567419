"""Forked launches are to the system what executed ones are; the other tests rely on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.process import Process, children_of
from tests.support.forkserver import PADDING, can_fork
from tests.support.launches import ENDLESS, Launch, run, start


def parent_of(process: Process) -> int:
    text = Path(f"/proc/{process.pid}/stat").read_text()
    return int(text[text.rindex(")") + 2 :].split()[1])


def descriptors(process: Process) -> set[str]:
    folder = Path(f"/proc/{process.pid}/fd")
    return {str(link.readlink()) for link in folder.iterdir()}


def test_processes_are_as_after_exec(
    tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]], monkeypatch: Any
) -> None:
    monkeypatch.setenv("CANARY", "sings")
    recipe = tiny_recipe(train={"max_steps": ENDLESS}, checkpoint={"every_steps": ENDLESS})
    running = Launch(tmp_path, recipe)
    running.wait_for_step(2)
    launcher = Process.find(running.process.pid)
    assert launcher is not None
    agent, ranks = running.agent(), running.ranks()
    everybody = [launcher, agent, *ranks]
    for process in everybody:
        assert process.variable("CANARY") == "sings"
        assert process.variable(PADDING) is None
        assert os.getsid(process.pid) == process.pid
        assert not any("forkserver" in name for name in descriptors(process))
    assert [rank.variable("RANK") for rank in ranks] == ["0", "1"]
    assert agent.variable("RANK") is launcher.variable("RANK") is None
    assert [parent_of(process) for process in (agent, *ranks)] == [launcher.pid, *[agent.pid] * 2]
    assert [child.pid for child in children_of(launcher.pid)] == [agent.pid]

    os.kill(ranks[1].pid, signal.SIGKILL)
    code, stdout, stderr = running.end()
    assert code == 1
    assert "killed by signal 9" in stderr
    assert "step 1" in stdout


def test_exit_codes_output_and_folders(tmp_path: Path) -> None:
    refused = run("status", folder=tmp_path)
    assert refused.returncode == 2
    assert "holds no run" in refused.stderr
    assert refused.stdout == ""
    executed = run("status", folder=tmp_path, forked=False)
    assert (executed.returncode, executed.stderr) == (2, refused.stderr)
    killed = start("schema")
    killed.kill()
    assert killed.wait(30) == -signal.SIGKILL


def test_what_acts_at_a_start_is_executed() -> None:
    assert can_fork(os.environ)
    assert not can_fork({**os.environ, "PYTHONPATH": "elsewhere"})
