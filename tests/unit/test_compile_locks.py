"""torch's lock on a folder of compiled code: taken from the dead on any host, else left alone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from launcher import compile_locks
from launcher.compile_locks import RECORD, builder_of, is_held_here, is_shared, remove_if_dead
from launcher.lock import FRESH_SECONDS, FolderLock, Holder
from tests.support.programs import need_root

HOLD = """
import sys
from pathlib import Path
from launcher.compile_locks import is_held_here, sign
from torch.utils.file_baton import FileBaton
lock = Path(sys.argv[1])
assert not is_held_here(lock)
baton = FileBaton(str(lock))
assert baton.try_acquire()
assert is_held_here(lock)
mark = sign(lock, "a builder") if sys.argv[2] == "signed" else None
print("held", flush=True)
sys.stdin.read()
if mark is not None:
    mark.release()
baton.release()
"""


class Builder:
    """A process that has torch's lock, and has signed it or not."""

    def __init__(self, lock: Path, how: str) -> None:
        lock.parent.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "operator" / "lock"


@pytest.fixture(params=["local", "shared"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Only the type of the file system is pretended: no network file system can be mounted here."""
    monkeypatch.setattr(compile_locks, "is_shared", lambda path: request.param == "shared")
    return str(request.param)


def make_old(path: Path, seconds: float = 1000.0) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_signed_lock_is_removed_once_its_builder_is_dead(lock: Path, disk: str) -> None:
    builder = Builder(lock, "signed")
    make_old(lock)
    found = builder_of(lock)
    assert found is not None
    assert found.pid == builder.process.pid
    assert not remove_if_dead(lock)
    builder.kill()
    assert builder_of(lock) is None
    assert remove_if_dead(lock)
    assert list(lock.parent.iterdir()) == []
    assert not remove_if_dead(lock)  # there is none


def test_an_end_leaves_nothing(lock: Path) -> None:
    builder = Builder(lock, "signed")
    builder.process.communicate()
    assert builder.process.returncode == 0
    assert list(lock.parent.iterdir()) == []


def test_an_unsigned_lock_is_removed_on_a_local_disk_only(lock: Path, disk: str) -> None:
    builder = Builder(lock, "unsigned")
    make_old(lock)
    assert not remove_if_dead(lock)
    builder.kill()
    assert remove_if_dead(lock) is (disk == "local")
    assert lock.exists() is (disk == "shared")


def test_an_unsigned_lock_of_another_user_stays(lock: Path) -> None:
    """Nobody but root sees what another user's processes have open."""
    need_root("chown")
    Builder(lock, "unsigned").kill()
    make_old(lock)
    os.chown(lock, 12001, -1)
    assert not remove_if_dead(lock)
    os.chown(lock, os.geteuid(), -1)
    assert remove_if_dead(lock)


def test_an_unsigned_lock_stays_while_files_beside_it_change(lock: Path) -> None:
    """As of a builder in another container, which shares the folder and shows no process."""
    Builder(lock, "unsigned").kill()
    make_old(lock)
    (lock.parent / "op.o").touch()
    assert not remove_if_dead(lock)
    make_old(lock.parent / "op.o")
    assert remove_if_dead(lock)


def test_a_lock_that_can_not_be_removed_ends_nothing(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Builder(lock, "signed").kill()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("remove_file", "hold"):
        monkeypatch.setattr(compile_locks, name, read_only)
        assert not remove_if_dead(lock)
    assert lock.exists()


def test_a_record_from_before_the_lock_is_another_builders(lock: Path, disk: str) -> None:
    dead = Builder(lock, "signed")
    dead.kill()
    lock.unlink()
    make_old(lock.with_name(RECORD))
    other = Builder(lock, "unsigned")
    assert not remove_if_dead(lock)
    other.kill()
    assert not remove_if_dead(lock)  # on a local disk not before it is old


def test_a_compiler_that_outlives_its_builder_is_waited_for(lock: Path, disk: str) -> None:
    Builder(lock, "signed").kill()
    ninja = lock.parent.parent / "ninja"
    shutil.copy("/bin/sleep", ninja)
    compiler = subprocess.Popen([ninja, "600"], cwd=lock.parent)
    try:
        assert not remove_if_dead(lock)
    finally:
        compiler.kill()
        compiler.wait()
    assert remove_if_dead(lock)


@pytest.fixture
def record(lock: Path) -> Iterator[int]:
    """The record of a builder on another host, as this one sees it."""
    lock.parent.mkdir()
    lock.touch()
    path = lock.with_name(RECORD)
    path.write_text(json.dumps(asdict(Holder("elsewhere", 1, 1, "yesterday", "a builder"))))
    with path.open("r+") as file:
        yield file.fileno()


def test_a_builder_on_another_host_is_dead_once_it_renews_no_more(
    lock: Path, disk: str, record: int
) -> None:
    make_old(lock)
    assert not remove_if_dead(lock)
    make_old(lock.with_name(RECORD), FRESH_SECONDS + 1)
    assert remove_if_dead(lock)


def test_a_suspended_builder_on_another_host_is_not_dead(
    lock: Path, disk: str, record: int
) -> None:
    """It renews nothing, and still has the kernel's lock, which the file server keeps for it."""
    make_old(lock)
    fcntl.flock(record, fcntl.LOCK_EX)
    make_old(lock.with_name(RECORD), FRESH_SECONDS + 1)
    assert not remove_if_dead(lock)
    fcntl.flock(record, fcntl.LOCK_UN)
    assert remove_if_dead(lock)


def test_this_process_knows_its_own_lock(lock: Path) -> None:
    lock.parent.mkdir()
    with lock.open("w"):
        assert is_held_here(lock)
    assert not is_held_here(lock)


def test_a_local_disk_is_no_shared_one(tmp_path: Path) -> None:
    assert not is_shared(tmp_path / "not" / "there")


def test_a_lock_made_anew_while_the_old_one_is_judged_stays(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else removes the dead lock, and a builder takes it, before we come to remove it."""
    first = Builder(lock, "signed")
    first.kill()
    builders: list[Builder] = []
    plain = compile_locks.sign

    def after_another(lock: Path, command: str) -> FolderLock | None:
        lock.unlink()
        builders.append(Builder(lock, "unsigned"))
        return plain(lock, command)

    monkeypatch.setattr(compile_locks, "sign", after_another)
    assert not remove_if_dead(lock)
    assert lock.exists()
    builders[0].kill()


def test_a_record_that_can_not_be_read_is_of_a_living_one(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's record in a folder that a group shares; root would read it all the same."""
    Builder(lock, "signed").kill()

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(compile_locks, "holder_of", denied)
    assert builder_of(lock) is not None
    assert not remove_if_dead(lock)
    monkeypatch.setattr(compile_locks, "hold", denied)
    assert compile_locks.sign(lock, "a builder") is None
