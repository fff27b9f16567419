"""Ranks and launchers that die, hang or crawl: F1, F2, F9, F10, F23, F24, F25."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from launcher.errors import EXIT_FAILED, EXIT_STOPPED
from launcher.run_dir import RunDir
from quickstart import assets
from tests.faults.attempt import attempt, kill_self
from tests.faults.places import at_place, at_step
from tests.faults.setting import (
    INTERVAL,
    NUM_STEPS,
    SETTINGS,
    Bench,
    Setting,
    assert_same_run,
    resumed_from,
)
from tests.faults.stops import events_or_none
from tests.faults.trial import Trial, trials_on
from tests.support.cgroups import MemoryLimit
from tests.support.launches import Launch, launch
from tests.support.training import events, run_folder

NUM_KILLS = 20
LONG = {"max_steps": 400}
"""More steps than a launch gets through before it is disturbed."""


def kills_at_random_steps(seed: int) -> Iterator[Trial]:
    """F1: yield 20 kills of a random rank at a random place, and one of a launch a setting."""
    chance = random.Random(seed)
    for setting in SETTINGS:
        for _ in range(NUM_KILLS // len(SETTINGS)):
            rank, place = chance.randrange(2), chance.randrange(1, 4 * NUM_STEPS)
            yield Trial("F1", f"rank {rank} at place {place}", setting, kill_at(rank, place))
        yield Trial("F1", "a rank of launcher run", setting, kill_a_rank_of_a_launch)


def kill_at(rank: int, place: int) -> Callable[[Bench, Setting, Path], str]:
    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        def sabotage(own: int) -> None:
            if own == rank:
                at_place(place, kill_self)

        recipe = bench.recipe(folder, setting)
        killed = attempt(recipe, folder, sabotage)
        assert killed.statuses[rank] == -9, killed.statuses
        assert killed.statuses[1 - rank] == EXIT_FAILED, "the other left by itself"
        run_dir = killed.run_dir
        reached = _last_step(run_dir)
        resumed = attempt(recipe, folder)
        assert resumed.statuses == [0, 0], resumed.text
        # The newest checkpoint may have been on its way to the disk still: then one interval more.
        assert reached - resumed_from(run_dir) <= 2 * INTERVAL
        assert_same_run(run_dir, bench.uninterrupted(setting))
        return "the other rank left by itself, bitwise the same"

    return run


def _last_step(run_dir: Any) -> int:
    if not run_dir.metrics.exists():
        return 0
    whole = run_dir.metrics.read_text().rpartition("\n")[0]  # the last line may be half written
    lines = [json.loads(line) for line in whole.splitlines()]
    return max((line["step"] for line in lines if "train/loss" in line), default=0)


def kill_a_rank_of_a_launch(bench: Bench, setting: Setting, folder: Path) -> str:
    recipe = bench.recipe(folder, setting, run={"max_restarts": 0}, train=LONG)
    running = Launch(folder, recipe)
    running.wait_for_checkpoint(4)
    ranks = running.ranks()
    os.kill(ranks[1].pid, signal.SIGKILL)
    began = time.monotonic()
    code, _, stderr = running.end()
    seconds = time.monotonic() - began
    assert code == EXIT_FAILED
    assert seconds <= 5.0, seconds
    for word in ("rank 1", "SIGKILL", "step "):
        assert word in stderr, stderr
    assert "Traceback" not in stderr
    return f"exit 1 after {seconds:.1f} s, rank and signal named"


def kill_the_launcher(bench: Bench, setting: Setting, folder: Path) -> str:
    recipe = bench.recipe(folder, setting)
    running = Launch(folder, recipe)
    running.wait_for_checkpoint(2)
    pids = [process.pid for process in (running.agent(), *running.ranks())]
    running.process.kill()
    running.process.communicate()
    began = time.monotonic()
    while any(_alive(pid) for pid in pids) and time.monotonic() - began < 10.0:
        time.sleep(0.02)
    seconds = time.monotonic() - began
    assert not any(_alive(pid) for pid in pids)
    resumed = attempt(recipe, folder)
    assert resumed.statuses == [0, 0], resumed.text
    assert_same_run(run_folder(recipe), bench.uninterrupted(setting))
    return f"no process left after {seconds:.1f} s, bitwise the same"


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop_a_rank(bench: Bench, setting: Setting, folder: Path) -> str:
    timeout = 30.0
    recipe = bench.recipe(
        folder, setting, run={"max_restarts": 0, "timeout_seconds": timeout}, train=LONG
    )
    running = Launch(folder, recipe)
    running.wait_for_checkpoint(2)
    ranks = running.ranks()
    os.kill(ranks[1].pid, signal.SIGSTOP)
    began = time.monotonic()
    code, _, stderr = running.end()
    seconds = time.monotonic() - began
    assert code == EXIT_FAILED
    assert seconds <= timeout + 5.0, seconds
    assert "rank 1" in stderr, stderr
    stacks = running.logs.stacks(0).read_text()
    assert "launcher/train/loop.py" in stacks, stacks
    assert not any(_alive(rank.pid) for rank in ranks)
    return f"named after {seconds:.1f} s at a timeout of {timeout:.0f} s, stacks dumped"


def out_of_memory(bench: Bench, setting: Setting, folder: Path) -> str:
    recipe = bench.recipe(folder, setting, run={"max_restarts": 0}, train=LONG)
    running = Launch(folder, recipe)
    running.wait_for_checkpoint(2)
    with MemoryLimit() as limit:
        limit.add(running.ranks()[1].pid, 1 << 20)  # the next buffer is too much
        code, _, stderr = running.end()
    assert code == EXIT_FAILED
    assert "ran out of memory at" in stderr, stderr
    assert "train.micro_batch_size" in stderr, stderr
    assert "rank 1" in stderr
    return "said to be out of memory, with the knobs"


def dies_at_the_same_step(bench: Bench, setting: Setting, folder: Path) -> str:
    """F24: a row kills its rank whenever it is read, as a broken driver or library would."""
    recipe = bench.recipe(folder, setting, run={"max_restarts": 5})
    marker = folder / "sitecustomize"
    marker.mkdir(parents=True)
    (marker / "sitecustomize.py").write_text(_DIE_AT_STEP)
    variables = {"PYTHONPATH": str(marker), "DIE_AT_STEP": "4"}
    with patch.dict(os.environ, variables):
        done = launch(folder, recipe)
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "no progress in 3 attempts" in done.stderr, done.stderr
    starts = events(run_folder(recipe), "start")
    assert [start["resumed_from"] for start in starts] == [0, 2, 2, 2]
    return "restarts ended: no progress in 3 attempts"


_DIE_AT_STEP = """
import os, signal, sys
if os.environ.get("RANK") == "1":
    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name == "launcher.train.run":  # the heartbeat is there, training not yet
                import launcher.train.heartbeat as heartbeat
                plain = heartbeat.Heartbeat.at
                def at(self, phase=None, **place):
                    plain(self, phase, **place)
                    if phase == "train" and place.get("step") == int(os.environ["DIE_AT_STEP"]):
                        os.kill(os.getpid(), signal.SIGKILL)
                heartbeat.Heartbeat.at = at
            return None
    sys.meta_path.insert(0, Watch())
"""


def best_and_patience(bench: Bench, setting: Setting, folder: Path) -> str:
    """F25: a change of 10 that counts as better never comes: patience runs out at step 8."""
    stopping = {"patience": 3, "min_delta": 10.0}
    outcomes = []
    for name in ("whole", "torn"):
        target = folder / name
        recipe = bench.recipe(target, setting, train={"max_steps": 20})
        recipe["early_stopping"] = stopping
        if name == "torn":
            killed = attempt(recipe, target, lambda _rank: at_step(6, kill_self))
            assert killed.statuses == [-9, -9]
        done = attempt(recipe, target)
        assert done.statuses == [0, 0], done.text
        outcomes.append(json.loads(run_folder(recipe).summary.read_text()))
    for key in ("outcome", "step", "best"):
        assert outcomes[0][key] == outcomes[1][key], key
    assert outcomes[0]["outcome"] == "early_stopped"
    return f"stopped early at step {outcomes[0]['step']} both times, same best"


def slow_rank(bench: Bench, setting: Setting, folder: Path) -> str:
    """F10: SIGSTOP and SIGCONT give rank 1 a tenth of its time, until it is warned of.

    With the whole MiniLM and more rows: in a step of the tiny model next to nothing is a rank's own
    work, and a rank is warned of only where that makes the others wait.
    """
    real = replace(bench, model=assets.minilm(assets.FOLDER))
    sizes = {"max_steps": 20_000, "global_batch_size": 64, "micro_batch_size": 16}
    recipe = real.recipe(folder, setting, train=sizes)
    recipe["evaluate"] = {"every_steps": 20_000}
    recipe["checkpoint"] = {"every_steps": 20_000}
    run_dir = run_folder(recipe)

    def crawl(pids: list[int]) -> None:
        deadline = time.monotonic() + 300.0
        while _alive(pids[1]) and time.monotonic() < deadline:
            if _last_step(run_dir) >= 2:
                os.kill(pids[1], signal.SIGSTOP)
                time.sleep(0.18)
                os.kill(pids[1], signal.SIGCONT)
            time.sleep(0.02)
            if _slow_ranks(run_dir):
                break
        os.kill(pids[0], signal.SIGTERM)

    done = attempt(recipe, folder, meanwhile=crawl)
    assert done.statuses == [EXIT_STOPPED] * 2, done.text
    assert _slow_ranks(run_dir) == [1], done.text
    return "warned of, not killed"


def _slow_ranks(run_dir: RunDir) -> list[int]:
    """Return the ranks that were warned of."""
    return [e["rank"] for e in events_or_none(run_dir, "warning") if " is slow" in e["message"]]


TRIALS = [
    *trials_on(SETTINGS, "F2", {"kill -9": kill_the_launcher}),
    *trials_on(SETTINGS, "F9", {"SIGSTOP": stop_a_rank}),
    *trials_on(SETTINGS, "F10", {"a tenth of its time": slow_rank}),
    *trials_on(SETTINGS, "F23", {"memory cgroup": out_of_memory}),
    *trials_on(SETTINGS, "F24", {"at step 4": dies_at_the_same_step}),
    *trials_on(SETTINGS, "F25", {"before step 6": best_and_patience}),
]
