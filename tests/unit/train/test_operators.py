"""The loading of an operator: what is said, shown and put on record, whoever compiles it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.compile_locks import LOCK, RECORD
from launcher.lock import hold
from launcher.train import operators
from launcher.train.heartbeat import Heartbeat
from launcher.train.operators import Build
from launcher.train.stop import StopFlag
from launcher.world import World

BUSY = ("sh", "-c", "while true; do :; done")


class Loading:
    """One operator's folder, a rank's heartbeat, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heartbeat = Heartbeat(World(), StopFlag())
        self.heartbeat.at("load")
        self.said: list[str] = []

    def build(self) -> Build:
        return Build("op", self.folder, self.heartbeat, self.said.append)

    def built(self) -> None:
        (self.folder / "op.so").touch()


@pytest.fixture
def loading(tmp_path: Path) -> Loading:
    (tmp_path / "op").mkdir()
    return Loading(tmp_path / "op")


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stands_still(heartbeat: Heartbeat) -> bool:
    before = heartbeat.place.progressed
    time.sleep(3 * operators.TICK_SECONDS)
    return heartbeat.place.progressed == before


def test_what_is_built_is_loaded_without_a_word(loading: Loading) -> None:
    loading.built()
    with loading.build() as build:
        build.wait_for_others()
        assert loading.heartbeat.place.phase == "load"
    assert loading.said == []


def test_who_compiles_is_on_record_and_shows_progress(loading: Loading) -> None:
    """The compiler is any process that works; torch's lock is any file that is open."""
    with loading.build() as build:
        build.wait_for_others()
        assert loading.said[0] == (
            "compiling DeepSpeed's operator op (first run on this machine; about a minute);"
            f" kept in {loading.folder}."
        )
        assert loading.heartbeat.place.phase == "compile op"
        with (loading.folder / LOCK).open("w"):
            wait_for((loading.folder / RECORD).exists)
            with running(BUSY, loading.folder):
                for _ in range(2):
                    before = loading.heartbeat.place.progressed
                    wait_for(lambda since=before: loading.heartbeat.place.progressed > since)
            # No progress: a compiler that does nothing, and a child that works at something else.
            with running(["sleep", "600"], loading.folder), running(BUSY, Path("/")):
                wait_for(lambda: stands_still(loading.heartbeat))
        (loading.folder / LOCK).unlink()
    assert not (loading.folder / RECORD).exists()
    assert loading.heartbeat.place.phase == "load"
    assert loading.said[1].startswith("op is ready after ")


def test_another_builder_is_waited_for_as_long_as_it_lives(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "SLOW_SECONDS", 0.0)
    loading.built()
    lock = loading.folder / LOCK
    lock.touch()
    other = hold(loading.folder / RECORD, "another rank")
    with loading.build() as build:
        wait_for(lambda: loading.said)  # built, and yet it takes long
        assert "anew" in loading.said[0]
        before = loading.heartbeat.place.progressed
        wait_for(lambda: loading.heartbeat.place.progressed > before)
        other.release()
        lock.unlink()
        build.wait_for_others()


def test_the_lock_of_the_dead_is_removed_and_said(loading: Loading) -> None:
    lock = loading.folder / LOCK
    lock.touch()
    (loading.folder / RECORD).touch()  # nobody holds it
    with loading.build() as build:
        build.wait_for_others()
    assert not lock.exists()
    assert f"removed {lock}: the process that compiled there is gone." in loading.said


def test_a_lock_of_nobody_known_is_said_with_what_to_do(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "SLOW_SECONDS", 0.0)
    lock = loading.folder / LOCK
    with lock.open("w"):
        os.utime(lock, (1.0, 1.0))
        process = subprocess.Popen(["sleep", "600"], stdin=lock.open())
    with loading.build():
        wait_for(lambda: len(loading.said) == 2)
        process.kill()
        process.wait()
    assert loading.said[1] == (
        f"waiting for a process that compiles op. If there is none on any host, remove {lock}."
    )
