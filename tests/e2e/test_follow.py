"""`status`, `logs`, `runs` and `stop` against real launches in every state."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.forkserver import ForkedProcess
from tests.support.launches import ENDLESS, Launch, launch, run, start

HOST = socket.gethostname()


@pytest.fixture
def recipe(tiny_recipe: Callable[..., dict[str, Any]], small_topics: Path) -> dict[str, Any]:
    return tiny_recipe(
        data={"validation": [{"path": str(small_topics / "validation.jsonl")}]},
        run={"max_restarts": 0},
        train={"max_steps": ENDLESS},
        evaluate={"every_steps": ENDLESS // 4},
        checkpoint={"every_steps": ENDLESS // 4},
    )


def say(*command: str | Path, code: int = 0) -> str:
    """Run a command of ours from nowhere special; return what it printed."""
    done = run(*command)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_run_through_its_states(tmp_path: Path, recipe: dict[str, Any]) -> None:
    running = Launch(tmp_path, recipe)
    folder = running.run_dir.root
    running.wait_for_step(3)
    shown = say("status", folder)
    assert shown.startswith("test  running\n")
    for words in (
        f" of {ENDLESS} (",
        ", train",
        "2 ranks",
        "tokens/s",
        "evaluation and checkpoint at",
    ):
        assert words in shown
    assert "running" in say("runs", folder.parent)
    watching = start("status", "--watch", folder)
    following = start("logs", "--follow", folder)
    assert isinstance(watching, ForkedProcess)
    assert isinstance(following, ForkedProcess)
    running.wait_for(lambda: watching.printed().count("test  running\n") >= 2)
    running.wait_for(lambda: "--- attempt 1 of test: running" in following.printed())
    assert watching.poll() is following.poll() is None

    assert "SIGTERM is sent" in say("stop", folder, "--now")
    code, _, stderr = running.end()
    assert code == 75, stderr
    assert say("status", folder).startswith("test  stopped\n")
    blocks = watching.communicate(timeout=30)[0]
    assert blocks.count("test  running\n") >= 2
    assert blocks.count("test  stopped\n") == 1
    lines = following.communicate(timeout=30)[0].splitlines()
    assert lines[0] == "--- attempt 1 of test: running"
    assert lines[-1] == "--- test: stopped"
    assert "nothing is running" in say("stop", folder, code=2)

    killed = Launch(tmp_path, recipe)
    killed.wait_for(lambda: len(killed.run_dir.launches) == 2 and "step" in killed.beat(0))
    killed.wait_for(lambda: (killed.beat(0)["step"] or 0) > 0)
    killed.process.kill()
    killed.end()
    shown = say("status", folder)
    assert shown.startswith("test  lost\n")
    assert "attempt 2 lost" in shown
    assert "2 attempts" in shown

    failing = Launch(tmp_path, recipe)
    failing.wait_for(lambda: len(failing.run_dir.launches) == 3 and bool(failing.beat(1)))
    failing.wait_for(lambda: (failing.beat(1)["step"] or 0) > 0)
    failing.ranks()[1].send(signal.SIGKILL)
    assert failing.end()[0] == 1
    shown = say("status", folder)
    assert shown.startswith("test  failed\n")
    assert f"attempt 3 failed, killed: rank 1 on {HOST} was killed by signal 9" in shown
    first, cause, *rest = say("logs", folder).splitlines()
    assert first == "--- attempt 3 of test: failed"
    assert cause.startswith(f"rank 1 on {HOST} was killed by signal 9")
    assert all(line.startswith((HOST, "Find out who")) for line in rest)
    assert all(
        f"{HOST} 1 |" in line for line in say("logs", folder, "--rank", "1").splitlines()[3:]
    )
    assert "attempt 1" in say("logs", folder, "--attempt", "1")
    assert "attempts 1 to 3" in say("logs", folder, "--attempt", "9", code=2)
    assert "Ranks here: 0, 1" in say("logs", folder, "--rank", "7", code=2)

    done = launch(tmp_path, recipe, "--fresh", "--set", "train.max_steps=6")
    assert done.returncode == 0, done.stderr
    table = say("runs", folder.parent).splitlines()
    assert table[0].split()[:4] == ["run", "state", "step", "best"]
    by_name = {line.split()[0]: line.split()[1:3] for line in table[1:]}
    assert by_name["test"][0] == "failed"
    assert by_name["test-2"] == ["finished", "6/6"]
    shown = say("status", folder.with_name("test-2"))
    assert shown.startswith("test-2  finished\n")
    assert "6 of 6 (100%)" in shown
    assert "best" in shown
    assert "Attempts" in folder.with_name("test-2").joinpath("report.html").read_text()
    watched = say("status", "--watch", folder.with_name("test-2"))
    assert watched == shown


def test_what_is_no_run(tmp_path: Path) -> None:
    for command in ("status", "logs", "stop"):
        assert "is not a run folder" in say(command, tmp_path, code=2)
    assert "holds no run" in say("runs", tmp_path, code=2)
    nothing = run("status", folder=tmp_path)
    assert nothing.returncode == 2
    assert "holds no run" in nothing.stderr
