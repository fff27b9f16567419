"""Kernels are compiled on the node's own disk, and nobody waits for the lock of a dead compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cluster.node import compile_caches
from launcher.cluster.node.compile_caches import caches_here, clear_dead_locks

HOLD = """
import sys
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
sys.stdin.read()
"""


def make_old(path: Path) -> None:
    os.utime(path, (1.0, 1.0))


def test_only_locks_of_the_dead_are_removed(tmp_path: Path) -> None:
    """torch's own lock: of a living compiler, of a killed one, and one that is just being made."""
    locks = [tmp_path / name / "lock" for name in ("living", "py311_cpu/killed", "new")]
    for lock in locks:
        lock.parent.mkdir(parents=True)
    living, killed, new = locks
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for lock in (living, killed)
    ]
    for holder in holders:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
    holders[1].kill()
    holders[1].wait()
    make_old(living)
    make_old(killed)
    new.touch()
    assert clear_dead_locks(tmp_path) == [killed]
    assert (living.exists(), killed.exists(), new.exists()) == (True, False, True)
    holders[0].kill()
    holders[0].wait()
    assert clear_dead_locks(tmp_path) == [living]
    assert clear_dead_locks(tmp_path / "nothing") == []


def test_a_local_disk_is_left_alone(tmp_path: Path) -> None:
    assert caches_here({"TMPDIR": str(tmp_path)}) == {}


def test_a_network_disk_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the type of the file system is pretended: no network file system can be mounted here."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(compile_caches, "is_shared", lambda path: path.is_relative_to(home))
    local = tmp_path / "local"
    local.mkdir()
    found = caches_here({"TMPDIR": str(local)})
    assert set(found) == {"TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"}
    assert all(Path(path).is_relative_to(local) and Path(path).is_dir() for path in found.values())
    chosen = {"TMPDIR": str(local), "TRITON_CACHE_DIR": "/mine", "TORCH_EXTENSIONS_DIR": "/mine"}
    assert caches_here(chosen) == {}


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local disk that everybody may write to; the home is on a network disk."""
    home, folder = tmp_path / "home", tmp_path / "local"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(compile_caches, "is_shared", lambda path: path.is_relative_to(home))
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.mark.parametrize("made", ["by another user", "writable", "a link", "a file"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_folder_that_others_could_have_made_is_not_used(
    local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], made: str, level: int
) -> None:
    usual = Path(caches_here({"TMPDIR": str(local)})["TORCH_EXTENSIONS_DIR"])
    assert usual == Path(caches_here({"TMPDIR": str(local)})["TORCH_EXTENSIONS_DIR"])
    bad = [usual.parent.parent, usual.parent, usual][level]
    match made:
        case "by another user":
            if os.geteuid():
                pytest.skip("needs root")
            os.chown(bad, 12345, 12345)
        case "writable":
            bad.chmod(0o777)
        case "a link":
            bad.rename(tmp_path / "theirs")
            bad.symlink_to(tmp_path / "theirs")
        case "a file":
            bad.rename(tmp_path / "theirs")
            bad.write_text("")
    found = Path(caches_here({"TMPDIR": str(local)})["TORCH_EXTENSIONS_DIR"])
    assert found.is_dir()
    assert found != usual
    assert found.is_relative_to(local)
    assert not (found.stat().st_mode | found.parent.stat().st_mode) & 0o022
    assert f"{bad} " in capsys.readouterr().err
