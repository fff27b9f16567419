"""A rank shows where it is and hears what asks it to stop; a changed clock plays no part."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.run_dir import LogDir, RunDir
from launcher.train import heartbeat as heartbeat_module
from launcher.train.heartbeat import Heartbeat
from launcher.train.stop import StopFlag, StopReason
from launcher.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(heartbeat_module, "INTERVAL_SECONDS", 0.01)
    logs = RunDir(tmp_path).logs(1)
    logs.root.mkdir(parents=True)
    return World(rank=0, world_size=2, logs=logs)


def read(world: World) -> dict[str, Any]:
    assert world.logs is not None
    found: dict[str, Any] = json.loads(world.logs.heartbeat(world.rank).read_text())
    return found


def has_progressed(world: World, since: float) -> bool:
    return float(read(world)["progressed"]) > since


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_place_and_process_are_written_from_the_start(world: World) -> None:
    heart = Heartbeat(world, StopFlag())
    heart.start()
    first = read(world)
    assert (first["rank"], first["pid"], first["phase"]) == (0, os.getpid(), "start")
    assert (first["step"], first["micro_step"]) == (None, None)
    heart.at("train", step=7, micro_step=1)
    heart.at(micro_step=2)
    wait_for(lambda: read(world)["micro_step"] == 2)
    heart.at("done")
    heart.stop()
    last = read(world)
    assert (last["phase"], last["step"]) == ("done", 7)
    assert first["written"] < last["written"] <= time.monotonic()


def test_it_beats_on_while_the_rank_stands_still(world: World) -> None:
    heart = Heartbeat(world, StopFlag())
    heart.start()
    first = read(world)
    wait_for(lambda: read(world)["written"] > first["written"] + 0.05)
    assert read(world)["progressed"] == first["progressed"]
    heart.stop()


def test_a_jump_of_the_clock_moves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopFlag()
    heart = Heartbeat(World(logs=world.logs, deadline=time.monotonic() + 600), stop)
    heart.start()
    real = time.time
    for jump in (3600, -3600):
        monkeypatch.setattr(time, "time", partial(lambda jump: real() + jump, jump))
        before = read(world)
        heart.at("train", step=1)
        wait_for(partial(has_progressed, world, before["progressed"]))
        assert 0 < read(world)["written"] - before["written"] < 60
    heart.stop()
    assert stop.reason is None


def test_rank_0_hears_a_stop_request(world: World, tmp_path: Path) -> None:
    run_dir, stop = RunDir(tmp_path), StopFlag()
    heart = Heartbeat(world, stop)
    heart.start()
    run_dir.stop_request.write_text("{}")
    time.sleep(0.1)
    assert stop.reason is None
    heart.watch(run_dir)
    wait_for(lambda: stop.reason is StopReason.REQUEST)
    heart.stop()


def test_the_stop_comes_in_time_to_save() -> None:
    """Without a log folder too: processes started by hand have a time limit as well."""
    stop = StopFlag()
    heart = Heartbeat(World(deadline=time.monotonic() + 100), stop)
    heart.reserve_seconds = 90
    heart.limit(time.monotonic() + 500)
    heart.hear()
    assert stop.reason is None
    heart.limit(time.monotonic() + 89)
    heart.hear()
    assert stop.reason is StopReason.TIME_LIMIT


def test_on_a_full_disk_it_beats_on(world: World) -> None:
    """Each record takes the place of the last, in the same bytes: no space is asked for."""
    heart = Heartbeat(world, StopFlag())
    heart.start()
    size = world.logs.heartbeat(0).stat().st_size if world.logs else 0
    heart.at("train", step=123456789, micro_step=4321)
    heart.stop()
    assert world.logs is not None
    assert world.logs.heartbeat(0).stat().st_size == size
    assert list(world.logs.root.iterdir()) == [world.logs.heartbeat(0)]


def test_a_folder_that_is_gone_does_not_end_the_heartbeat(tmp_path: Path) -> None:
    heart = Heartbeat(World(logs=LogDir(tmp_path / "gone")), StopFlag())
    heart.start()
    heart.stop()
    assert not (tmp_path / "gone").exists()
