"""`launcher stop` asks what is running, and says so where nothing is."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from launcher.cluster.node.signals import StopSignals
from launcher.cluster.stop import ask_to_stop
from launcher.errors import InputError
from launcher.lock import hold
from launcher.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "bot")
    found.root.mkdir()
    found.resolved.write_text("run: {name: bot}\n")
    return found


def test_it_asks_and_says_what_happens(run_dir: RunDir) -> None:
    with hold(run_dir.lock, "launcher run"):
        said = ask_to_stop(run_dir.root)
        assert "bot" in said
        assert f"pid {os.getpid()}" in said
        assert "75" in said
        assert json.loads(run_dir.stop_request.read_text())["host"]
        assert ask_to_stop(run_dir.root) == said


def test_nothing_is_running(run_dir: RunDir) -> None:
    with pytest.raises(InputError, match="nothing is running") as refused:
        ask_to_stop(run_dir.root)
    assert refused.value.exit_code == 2
    assert not run_dir.stop_request.exists()


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        ask_to_stop(tmp_path)


def test_now_signals_the_launch_where_it_is(run_dir: RunDir) -> None:
    with hold(run_dir.lock, "launcher run"), StopSignals() as signals:
        assert "SIGTERM is sent" in ask_to_stop(run_dir.root, now=True)
        assert signals.asked is signal.SIGTERM
        assert run_dir.stop_request.exists()


def test_now_can_not_signal_another_host(run_dir: RunDir) -> None:
    with hold(run_dir.lock, "launcher run"), StopSignals() as signals:
        holder = json.loads(run_dir.lock.read_text()) | {"host": "elsewhere"}
        run_dir.lock.write_text(json.dumps(holder))
        said = ask_to_stop(run_dir.root, now=True)
        assert "it runs on elsewhere, give --now there" in said
        assert signals.asked is None
        assert run_dir.stop_request.exists()
