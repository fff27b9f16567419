"""What ranks are told of network and disks: what the user has set stays."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launcher.cluster.nodes.surroundings import (
    interface_of,
    job_caches,
    network_of,
    remove_job_caches,
)

FOLDER = f"py{sys.version_info.major}{sys.version_info.minor}_cpu"
NAMES = ("TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")


def test_the_interface_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.9") is None
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    assert network_of("127.0.0.1") == {"NCCL_SOCKET_IFNAME": "lo"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which an operator has been compiled, and another compilation holds its lock."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    operator = tmp_path / "home" / ".cache" / "torch_extensions" / FOLDER / "op"
    operator.mkdir(parents=True)
    (operator / "op.so").write_text("compiled")
    (operator / "lock").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_job_compiles_on_the_nodes_own_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(home))
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    found = job_caches("42")
    assert set(found) == set(NAMES)
    copied = Path(found["TORCH_EXTENSIONS_DIR"]) / "op"
    assert (copied / "op.so").read_text() == "compiled"
    assert not (copied / "lock").exists()
    (copied / "lock").touch()  # its ranks were killed while they compiled, and the job requeued
    assert job_caches("42") == found
    assert not (copied / "lock").exists()
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    assert not set(job_caches("42").values()) & set(found.values())
    remove_job_caches("42")
    assert copied.exists()
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    remove_job_caches("42")
    assert not copied.exists()


def test_what_the_user_has_set_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", str(home))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    assert set(job_caches("42")) == {"TORCH_EXTENSIONS_DIR"}
    monkeypatch.setenv("SLURM_TMPDIR", str(home / "not there"))
    monkeypatch.delenv("TMPDIR", raising=False)
    assert job_caches("42") == {}
