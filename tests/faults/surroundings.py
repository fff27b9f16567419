"""Faults of what is around a run: F29 its readers, F34 strangers at its port, F35 its folder taken
away, F36 folders that another user made first."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from launcher.cluster.node import compile_caches
from launcher.errors import EXIT_FAILED
from tests.faults.attempt import attempt
from tests.faults.folders import LATER, need_immutable, on_rank_0
from tests.faults.hostile import attempt_refused, killed_run, resumed_as_if_nothing_had_happened
from tests.faults.setting import KEYS, SETTINGS, Bench, Setting, assert_same_run
from tests.faults.trial import trials_on
from tests.support.nodes import Nodes
from tests.support.programs import need_root
from tests.support.training import events, records, run_folder

STRANGER = 12_001
"""A user that nobody is."""
NUM_STRANGERS = 300
CROWD = 50
FIRST_PORT = 23_450


def without_readers(bench: Bench, setting: Setting, folder: Path) -> str:
    """F29: as behind a dead `tee`."""

    def broken() -> TextIO:
        reading, writing = os.pipe()
        os.close(reading)
        return os.fdopen(writing, "w", buffering=1)  # of lines, as the terminal of a rank is

    recipe = bench.recipe(folder, setting)
    done = attempt(recipe, folder, terminal=broken)
    assert done.statuses == [0, 0], done.text
    run_dir = run_folder(recipe)
    told = [event["message"] for event in events(run_dir, "warning")]
    assert any("no longer shown" in message for message in told), told
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "said in events, bitwise the same"


def strangers(bench: Bench, setting: Setting, folder: Path) -> str:
    """F34: one rank on each of two nodes, which meet among strangers."""
    recipe = bench.recipe(folder, setting, cluster={"cpu_ranks": 1})
    ended = threading.Event()
    met: list[int] = []
    """The port of each connection that a stranger got."""
    crowd = [threading.Thread(target=act, args=(ended, met)) for act in (_silent, _rude, _many)]
    with Nodes(folder, recipe) as nodes:
        nodes.start(0, "--port", str(FIRST_PORT))
        nodes.wait_for(nodes.run_dir.meeting_key.exists)
        for thread in crowd:
            thread.start()
        try:
            nodes.wait_for(lambda: len(met) >= CROWD)
            nodes.start(1, "--port", str(FIRST_PORT))
            codes = nodes.end()
        finally:
            ended.set()
            for thread in crowd:
                thread.join()
    assert [codes[rank][0] for rank in (0, 1)] == [0, 0], codes
    assert not any("Traceback" in text for _, *texts in codes.values() for text in texts)
    (start,) = events(nodes.run_dir, "start")
    assert (start["world_size"], start["num_nodes"]) == (2, 2)
    whole = bench.uninterrupted(setting)
    for key in KEYS:
        assert records(nodes.run_dir, key) == records(whole, key), key
    return "met and trained, bitwise the same"


def _connections(ended: threading.Event, met: list[int]) -> Iterator[socket.socket]:
    while not ended.wait(0.02):
        for port in range(FIRST_PORT, FIRST_PORT + 8):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), timeout=0.2)
                met.append(port)
                yield connection


def _silent(ended: threading.Event, met: list[int]) -> None:
    held = []
    for connection in _connections(ended, met):
        held.append(connection)
        if len(held) > NUM_STRANGERS:
            held.pop(0).close()
    for connection in held:
        connection.close()


def _rude(ended: threading.Event, met: list[int]) -> None:
    """Garbage, and a reset in place of an end."""
    for connection in _connections(ended, met):
        with contextlib.suppress(OSError):
            connection.sendall(b"\xff" * 4096)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def _many(ended: threading.Event, met: list[int]) -> None:
    for connection in _connections(ended, met):
        connection.close()


def read_only(bench: Bench, setting: Setting, folder: Path) -> str:
    """F35: nothing can be made in the folder any more, as on a file system remounted read-only."""
    need_immutable(folder)
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)
    taken = (run_dir.root, run_dir.checkpoints)

    def take() -> None:
        subprocess.run(["chattr", "+i", *map(str, taken)], check=True)

    try:
        failed = attempt(recipe, folder, on_rank_0(LATER, take))
    finally:
        subprocess.run(["chattr", "-i", *map(str, taken)], capture_output=True)
    assert failed.statuses[0] == EXIT_FAILED, failed.text
    assert "Traceback" not in failed.text, failed.text
    assert f"{run_dir.checkpoints}/step-" in failed.text, failed.text
    done = attempt(recipe, folder)
    resumed_as_if_nothing_had_happened(done, run_dir, bench, setting)
    return "ended with its name; resumed, bitwise the same"


def removed(bench: Bench, setting: Setting, folder: Path) -> str:
    """F35: the folder is gone; the same command begins the run anew."""
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)

    def take() -> None:
        # Renamed first: a save that is being written would put files where rmtree has been.
        run_dir.root.rename(folder / "gone")
        shutil.rmtree(folder / "gone", ignore_errors=True)

    failed = attempt(recipe, folder, on_rank_0(LATER, take))
    assert failed.statuses[0] == EXIT_FAILED, failed.text
    assert "Traceback" not in failed.text, failed.text
    assert f"{run_dir.root}: the run folder is gone" in failed.text, failed.text
    done = attempt(recipe, folder)
    assert done.statuses == [0, 0], done.text
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "ended with its name; begun anew, bitwise the same"


def of_a_stranger(what: str) -> Callable[[Bench, Setting, Path], str]:
    """F36: a folder of the run, or the prepared data, belongs to another user."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        need_root("chown")
        cache = folder / "cache"
        recipe = bench.recipe(folder, setting, data={"cache_dir": str(cache)})
        run_dir = killed_run(recipe, folder)
        owned = run_dir.root if what == "run" else next(cache.glob("*/build-*")).parent
        _give(owned, STRANGER)
        if what == "run":
            assert f"belongs to uid {STRANGER}" in attempt_refused(recipe, folder)
        else:
            refused = attempt(recipe, folder, prepares=False)
            assert f"belongs to uid {STRANGER}" in refused.text, refused.text
        _give(owned, os.geteuid())
        done = attempt(recipe, folder)
        resumed_as_if_nothing_had_happened(done, run_dir, bench, setting)
        return "refused and named; bitwise the same once it is one's own"

    return run


def compiled_kernels(_bench: Bench, _setting: Setting, folder: Path) -> str:
    """F36: the usual folder of compiled kernels was made by another user, with code in it."""
    need_root("running as another user")
    shared = folder / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    _reachable(shared)
    with pytest.MonkeyPatch.context() as patch:
        # Only the type of the home's file system is pretended: none of a network is here.
        patch.setattr(compile_caches, "is_shared", lambda path: path != shared)
        usual = compile_caches.caches_here({"TMPDIR": str(shared)})
        top = next(shared.iterdir())
        shutil.rmtree(top)
        command = ["sh", "-c", f"mkdir -p {Path(usual['TRITON_CACHE_DIR'])}; chmod -R 777 {top}"]
        subprocess.run(command, check=True, user=STRANGER)
        assert top.stat().st_uid == STRANGER
        found = compile_caches.caches_here({"TMPDIR": str(shared)})
    assert found.keys() == usual.keys()
    for path in map(Path, found.values()):
        assert top not in path.parents
        for level in (path, *path.parents):
            if level == shared:
                break
            assert (level.stat().st_uid, level.stat().st_mode & 0o777) == (os.geteuid(), 0o700)
    return "a fresh folder of one's own is taken"


def _reachable(folder: Path) -> None:
    """Let others pass through the folders above."""
    for above in folder.parents:
        if above.stat().st_uid == os.geteuid() and str(above) not in ("/", "/tmp"):
            above.chmod(above.stat().st_mode | 0o011)


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, -1, follow_symlinks=False)


TRIALS = [
    *trials_on(SETTINGS, "F29", {"readers gone": without_readers}),
    *trials_on(SETTINGS, "F34", {"strangers": strangers}),
    *trials_on(SETTINGS, "F35", {"read-only": read_only, "removed": removed}),
    *trials_on(
        SETTINGS,
        "F36",
        {
            "run": of_a_stranger("run"),
            "data": of_a_stranger("data"),
            "kernels": compiled_kernels,
        },
    ),
]
