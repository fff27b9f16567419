"""The first run on a machine: DeepSpeed compiles what its ranks talk by, and the user is told.

The one test that really compiles (15 to 30 s alone on two cores); all others find it done.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.compile_locks import LOCK, RECORD
from tests.support.launches import LAUNCHER, Launch
from tests.support.training import base_recipe

OPERATOR = "deepspeed_shm_comm"
PHASE = f"compile {OPERATOR}"


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the operator is compiled in, where nothing is yet."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    yield tmp_path / "extensions" / OPERATOR
    for process in psutil.process_iter():  # compilers of a failed test
        if is_in(process, tmp_path / "extensions" / OPERATOR):
            process.kill()


def is_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except (psutil.Error, OSError):
        return False


def phases(running: Launch) -> list[str]:
    return [running.beat(rank).get("phase", "") for rank in (0, 1)]


def kill_while_it_compiles(running: Launch, folder: Path) -> None:
    """End launch, ranks and compilers at once, as a machine that is switched off does."""
    running.wait_for(lambda: (folder / RECORD).exists() and phases(running) == [PHASE, PHASE])
    launcher = psutil.Process(running.process.pid)
    for process in (launcher, *launcher.children(recursive=True)):
        process.kill()
    stdout, _ = running.process.communicate()
    assert stdout.count(f"compiling DeepSpeed's operator {OPERATOR}") == 1


def test_a_cold_build_is_said_and_seen_and_the_lock_of_a_dead_one_removed(
    cold: Path, tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    recipe: dict[str, Any] = base_recipe(
        tmp_path,
        tiny_bert_dir,
        "sequence-classification",
        small_topics / "train.jsonl",
        train={"max_steps": 1},
        cluster={"cpu_ranks": 2},
    )
    kill_while_it_compiles(Launch(tmp_path, recipe), cold)
    assert (cold / LOCK).exists()

    running = Launch(tmp_path, recipe)
    running.wait_for(lambda: len(running.run_dir.launches) == 2)
    running.wait_for(lambda: phases(running) == [PHASE, PHASE])
    assert (
        f"removed {cold / LOCK}: the process that compiled there is gone."
        in running.logs.launch.read_text()
    )
    status = subprocess.run(
        [LAUNCHER, "status", str(running.run_dir.root)], capture_output=True, text=True
    )
    assert f"0 of 1 (0%), {PHASE}" in status.stdout
    # One rank compiles and one waits: both come to new places all the time, for the watchdog.
    idle: list[float] = []
    began = time.monotonic()
    running.wait_for(until_compiled(running, idle))
    assert len(idle) > 10
    assert max(idle) < (time.monotonic() - began) / 2  # a tick a second, on a busy machine too
    code, stdout, stderr = running.end()
    assert code == 0, stderr
    said = stdout.index(f"compiling DeepSpeed's operator {OPERATOR} (first run on this machine;")
    assert f"kept in {cold}.\n" in stdout[said:]
    assert f"{OPERATOR} is ready after " in stdout[said:]
    assert stdout.count("compiling DeepSpeed's") == 1
    assert not (cold / LOCK).exists()
    assert not (cold / RECORD).exists()


def until_compiled(running: Launch, idle: list[float]) -> Callable[[], bool]:
    """Return what tells whether a build has ended, and notes how long ranks came no further."""

    def look() -> bool:
        beats = [running.beat(rank) for rank in (0, 1)]
        idle.extend(b["written"] - b["progressed"] for b in beats if b.get("phase") == PHASE)
        return bool(beats) and all(beat and beat["phase"] != PHASE for beat in beats)

    return look
