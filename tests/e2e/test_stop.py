"""Whatever asks for a stop: one checkpoint, exit 75, and the same command goes on from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from launcher.run_dir import RunDir
from tests.support.launches import ENDLESS, Launch, launch, run
from tests.support.training import events, records


@pytest.fixture
def recipe(tiny_recipe: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return tiny_recipe(train={"max_steps": ENDLESS}, checkpoint={"every_steps": ENDLESS})


def by_a_signal_to_one_rank(running: Launch) -> str:
    running.ranks()[1].send(signal.SIGUSR1)
    return "SIGTERM or SIGUSR1"


def by_ctrl_c(running: Launch) -> str:
    """A terminal sends it to the whole process group; impatience again, while it saves."""
    os.killpg(running.process.pid, signal.SIGINT)
    running.wait_for(lambda: running.beat(0)["phase"] in ("save", "done"))
    with suppress(ProcessLookupError):  # on a busy machine all may be over by now
        os.killpg(running.process.pid, signal.SIGINT)
    return "Ctrl-C"


def by_a_signal_to_all(running: Launch) -> str:
    """As a batch system does, the elastic agent included."""
    for process in (*running.ranks(), running.agent()):
        process.send(signal.SIGUSR1)
    running.process.send_signal(signal.SIGUSR1)
    return "SIGTERM or SIGUSR1"


def by_command(running: Launch) -> str:
    """While it runs, a second launch of the same run is refused."""
    second = run("run", running.recipe)
    assert second.returncode == 2
    assert f"pid {running.process.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    asked = run("stop", running.run_dir.root)
    assert asked.returncode == 0
    assert "exits 75" in asked.stdout
    return "launcher stop"


WAYS = (by_a_signal_to_one_rank, by_ctrl_c, by_a_signal_to_all, by_command)


def test_every_way_to_stop_and_going_on(tmp_path: Path, recipe: dict[str, Any]) -> None:
    at = 0
    for way in WAYS:
        running = Launch(tmp_path, recipe)
        running.wait_for_step(at + 2)
        reason = way(running)
        code, _, stderr = running.end()
        assert code == 75, (way, stderr)
        at = newest_checkpoint(running.run_dir)
        assert f"test stopped at step {at} ({reason}); checkpoint step-{at:06d};" in stderr
        assert len(stderr.splitlines()) == 1
        assert running.logs.failures == []
        assert [running.beat(rank)["phase"] for rank in range(2)] == ["done", "done"]
    run_dir = running.run_dir
    nothing = run("stop", run_dir.root)
    assert nothing.returncode == 2
    assert "nothing is running" in nothing.stderr

    last = at + 4
    recipe["train"]["max_steps"] = last
    done = launch(tmp_path, recipe, "--allow-change", "train.max_steps")
    assert done.returncode == 0, done.stderr
    assert "data as prepared before: 90 train rows, " in done.stdout
    assert "with loss" not in done.stdout  # as the report's table, which a process would print
    lines = [line for line in run_dir.metrics.read_text().splitlines() if "train/loss" in line]
    assert len(lines) == len(records(run_dir, "train/loss")) == last
    started = events(run_dir, "start")
    assert len(started) == len(WAYS) + 1
    resumed = [start["resumed_from"] for start in started]
    assert resumed == sorted(set(resumed))
    assert not run_dir.lock.exists()
    assert not run_dir.stop_request.exists()


def newest_checkpoint(run_dir: RunDir) -> int:
    (newest,) = [path for path in [run_dir.latest] if path.is_symlink()]
    return int(newest.readlink().name.removeprefix("step-"))


def test_the_time_limit_and_a_stop_before_anything_runs(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    running = Launch(tmp_path, recipe)
    running.wait_for(running.run_dir.accelerate.exists)
    running.process.terminate()
    code, _, stderr = running.end()
    assert code == 75
    assert "stopped before the first step (SIGTERM); nothing to save yet" in stderr

    limited = launch(tmp_path, recipe, "--fresh", "--set", f"run.max_hours={10 / 3600}")
    assert limited.returncode == 75, limited.stderr
    assert "(time limit)" in limited.stderr
