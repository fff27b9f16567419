"""One launch a run folder: the second is refused by name, and a dead holder's lock is free."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher import lock as lock_module
from launcher.errors import InputError
from launcher.lock import FRESH_SECONDS, hold, holder_of, release_all
from launcher.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from launcher.lock import hold
hold(Path(sys.argv[1]), "launcher run")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return RunDir(tmp_path / "runs" / "bot").lock


def holding_process(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_the_second_is_refused_and_told_who_holds_it(path: Path) -> None:
    with holding_process(path) as process:
        with pytest.raises(InputError) as refused:
            hold(path, "launcher run")
        said = str(refused.value)
        assert len(said.splitlines()) == 1
        for part in (str(path.parent), "launcher run", socket.gethostname(), f"pid {process.pid}"):
            assert part in said
        assert json.loads(path.read_text())["since"] in said
        found = holder_of(path)
        assert found is not None
        assert (found.pid, found.is_alive_here) == (process.pid, True)

        process.kill()
        process.wait()
        assert holder_of(path) is None
        with hold(path, "launcher run"):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_released_it_leaves_nothing(path: Path) -> None:
    with hold(path, "launcher run") as lock:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o077 == 0
        release_all()
        assert list(path.parent.iterdir()) == []
        lock.release()
        assert holder_of(path) is None
        with hold(path, "launcher run"):
            lock.release()
            assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_a_holder_on_another_host_counts_while_it_renews(path: Path) -> None:
    """Where the kernel's lock isn't shared between hosts, only the time stamp tells."""
    elsewhere = {"host": "n17", "pid": os.getpid(), "started_ticks": 1, "since": "noon"}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(elsewhere | {"command": "launcher run"}))
    with pytest.raises(InputError, match="on n17"):
        hold(path, "launcher run")
    long_ago = time.time() - FRESH_SECONDS - 5
    os.utime(path, (long_ago, long_ago))
    with hold(path, "launcher run"):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_the_time_stamp_is_renewed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "RENEWAL_SECONDS", 0.01)
    with hold(path, "launcher run"):
        os.utime(path, (1.0, 1.0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 1.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_without_kernel_locks_the_process_decides(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with hold(path, "launcher run"):
        with pytest.raises(InputError, match=str(os.getpid())):
            hold(path, "launcher run")
        gone = json.loads(path.read_text()) | {"started_ticks": 1}
        path.write_text(json.dumps(gone))
        assert holder_of(path) is None


def test_a_torn_lock_file_is_no_holder(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text('{"host": "n1')
    with hold(path, "launcher run"):
        assert holder_of(path) is not None
