"""wandb for real, offline: one run over restarts, nothing private in it, and no harm when it fails.

Raising and blocking are injected into the real module; everything else is the real thing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from launcher.files.lines import read_lines
from launcher.metrics.record import Event
from launcher.metrics.recorder import open_recorder
from launcher.metrics.wandb import WandbWriter, wandb_mode
from launcher.metrics.wandb_files import last_logged_step
from launcher.recipe.schema import WandbSection
from launcher.run_dir import RunDir
from tests.support.records import evaluation_record, recipe, train_record
from tests.support.wandb_file import entries, history, run_ids

REPOSITORY = Path(__file__).resolve().parents[3]
RECIPE = recipe(logging={"wandb": {"project": "support", "tags": ["a", "b"]}})
CANARY = "c4n4ry" * 8


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def forever() -> Iterator[Callable[..., None]]:
    """Give a function that does not return before the test ends."""
    released = threading.Event()

    def block(*args: Any, **kwargs: Any) -> None:
        released.wait(60)
        raise RuntimeError("released")

    yield block
    released.set()


def writer(run_dir: RunDir, troubles: list[str], **options: Any) -> WandbWriter:
    defaults: dict[str, Any] = {
        "run_id": "abcd1234",
        "has_key": False,
        "resume_step": 0,
        "on_trouble": troubles.append,
        "finish_seconds": 60.0,  # a loaded machine; tests of the limit name their own
    }
    run_dir.root.mkdir(parents=True, exist_ok=True)
    return WandbWriter(run_dir, RECIPE, **(defaults | options))


def train(run_dir: RunDir, resume_step: int, last_step: int) -> None:
    with open_recorder(
        run_dir,
        RECIPE,
        resume_step=resume_step,
        total_steps=20,
        wandb_run_id="abcd1234",
        has_wandb_key=False,
    ) as recorder:
        if resume_step == 0:
            recorder.evaluation(evaluation_record(0))
        for step in range(resume_step + 1, last_step + 1):
            recorder.train(train_record(step))
            if step % 4 == 0:
                recorder.evaluation(evaluation_record(step))


def outside(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process with a wandb service of its own."""
    inherited = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=REPOSITORY,
        env=inherited | variables,
        timeout=120,
        capture_output=True,
        text=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once the condition holds; a loaded machine may need many seconds to import wandb."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def files(run_dir: RunDir) -> list[Path]:
    return sorted(run_dir.wandb.rglob("*.wandb"))


def test_two_restarts_are_one_run_with_each_step_once(run_dir: RunDir) -> None:
    train(run_dir, 0, 10)
    train(run_dir, 8, 15)
    train(run_dir, 12, 20)
    assert len(files(run_dir)) == 3
    assert [run_ids(path) for path in files(run_dir)] == [{"abcd1234"}] * 3
    rows = [row for path in files(run_dir) for row in history(path)]
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses == {step: train_record(step).loss for step in range(1, 21)}
    assert Counter(row["step"] for row in rows) == Counter(range(21))
    assert [row["step"] for row in rows if "validation/loss" in row] == [0, 4, 8, 12, 16, 20]
    assert all(row["_step"] == row["step"] for row in rows)
    assert not read_lines(run_dir.events).records  # no warning


@pytest.mark.parametrize("resume_step", [0, 40, 48])
def test_a_kill_loses_and_repeats_no_step(run_dir: RunDir, resume_step: int) -> None:
    killed = outside(
        f"""
        import os, signal
        from pathlib import Path
        from launcher.metrics.wandb import WandbWriter
        from launcher.run_dir import RunDir
        from tests.unit.metrics.test_wandb import files, train, wait_for
        from tests.support.wandb_file import history
        run_dir = RunDir(Path({str(run_dir.root)!r}))
        def die(writer):
            wait_for(lambda: any(history(path) for path in files(run_dir)))
            os.kill(os.getpid(), signal.SIGKILL)
        WandbWriter.close = die
        train(run_dir, 0, 50)
        """
    )
    assert killed.returncode == -signal.SIGKILL
    before = [row["step"] for row in history(files(run_dir)[0])]
    assert 0 < len(before) < 51  # a real loss: wandb held at least the last row back
    train(run_dir, resume_step, 60)
    rows = [row for path in files(run_dir) for row in history(path)]
    assert Counter(row["step"] for row in rows) == Counter(range(61))
    assert {row["step"]: row.get("train/loss") for row in rows if row["step"]} == {
        step: train_record(step).loss for step in range(1, 61)
    }


def test_a_damaged_file_is_read_as_far_as_it_goes(run_dir: RunDir) -> None:
    train(run_dir, 0, 20)
    (path,) = files(run_dir)
    whole = path.read_bytes()
    assert last_logged_step(run_dir.wandb, "abcd1234") == 20
    assert last_logged_step(run_dir.wandb, "another") == -1
    for damaged in (whole[: len(whole) // 2], whole[: len(whole) // 2] + b"\xff" * 5000, b":W&B"):
        path.write_bytes(damaged)
        assert -1 <= last_logged_step(run_dir.wandb, "abcd1234") < 20
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole)))  # blocks that were never filled
    assert 0 < last_logged_step(run_dir.wandb, "abcd1234") < 20


def test_what_an_unreachable_wandb_missed_is_sent_after_the_resume(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        train(run_dir, 0, 10)
    train(run_dir, 8, 12)
    (path,) = files(run_dir)
    assert [row["step"] for row in history(path)] == list(range(13))


def test_a_skipped_update_leaves_a_gap(run_dir: RunDir) -> None:
    troubles: list[str] = []
    wandb_writer = writer(run_dir, troubles)
    for step, loss in ((1, 2.5), (2, None), (3, 2.25)):
        wandb_writer.train(train_record(step, loss=loss))
    wandb_writer.close()
    (path,) = files(run_dir)
    rows = history(path)
    assert [row.get("train/loss") for row in rows] == [2.5, None, 2.25]
    assert "train/loss" not in rows[1]
    assert not troubles


def test_our_step_is_the_axis_of_every_metric(run_dir: RunDir) -> None:
    train(run_dir, 0, 1)
    metrics = [entry.metric for entry in entries(files(run_dir)[0]) if entry.HasField("metric")]
    assert [metric.step_metric for metric in metrics if metric.glob_name == "*"] == ["step"]


def test_the_recipe_is_the_config_and_nothing_private_is_kept(run_dir: RunDir) -> None:
    script = f"""
        from pathlib import Path
        from launcher.run_dir import RunDir
        from tests.unit.metrics.test_wandb import train
        train(RunDir(Path({str(run_dir.root)!r})), 0, 2)
        """
    secrets = {"WANDB_API_KEY": CANARY[:40], "HF_TOKEN": CANARY, "MY_VARIABLE": CANARY}
    done = outside(script, f"--token={CANARY}", **secrets)
    assert done.returncode == 0, done.stderr
    (run,) = [entry.run for entry in entries(files(run_dir)[0]) if entry.HasField("run")]
    config = {item.key: item.value_json for item in run.config.update}
    assert '"path":"models/small"' in config["model"].replace(" ", "")
    assert (run.project, run.display_name, list(run.tags)) == ("support", "bot", ["a", "b"])
    assert run.host == ""
    kept = b"".join(path.read_bytes() for path in run_dir.root.rglob("*") if path.is_file())
    assert CANARY[:12].encode() not in kept
    assert sys.executable.encode() not in kept
    uploads = [path.name for path in run_dir.wandb.rglob("files/*")]
    assert not set(uploads) & {"wandb-metadata.json", "requirements.txt", "output.log"}


def test_an_init_that_raises_is_one_warning(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> None:
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    train(run_dir, 0, 12)
    steps = [record["step"] for record in read_lines(run_dir.metrics).records]
    assert sorted(set(steps)) == list(range(13))
    (event,) = read_lines(run_dir.events).records
    assert event["kind"] == "warning"
    assert "CommError: no route to host" in event["message"]


UNREACHABLE = {
    "WANDB_BASE_URL": "http://127.0.0.1:9",  # the discard port: nobody listens
    "WANDB_API_KEY": "0123456789" * 4,
}


def unreachable(
    run_dir: RunDir, mode: str, init_seconds: float, finish_seconds: float, before: str = ""
) -> str:
    """Train with a key and no server until wandb has written a file; return what was printed.

    `before`: an expression that is evaluated first.
    """
    done = outside(
        f"""
        from pathlib import Path
        from launcher.metrics.wandb import WandbWriter
        from launcher.run_dir import RunDir
        from tests.support.records import recipe, train_record
        from tests.unit.metrics.test_wandb import exit_after_first_teardown, wait_for
        {before}
        run_dir = RunDir(Path({str(run_dir.root)!r}))
        run_dir.root.mkdir()
        kept = WandbWriter(
            run_dir,
            recipe(logging={{"wandb": {{"project": "p", "mode": {mode!r}}}}}),
            run_id="abcd1234",
            has_key=True,
            resume_step=0,
            on_trouble=lambda message: print("trouble:", message),
            finish_seconds={finish_seconds},
            init_seconds={init_seconds},
        )
        for step in range(1, 10):
            kept.train(train_record(step))
        pattern = "offline-run-*/*.wandb" if {mode!r} == "auto" else "run-*/*.wandb"
        wait_for(lambda: any(run_dir.wandb.glob(pattern)), 40.0 if {mode!r} == "auto" else 10.0)
        kept.close()
        print("closed")
        """,
        **UNREACHABLE,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_key_without_a_network_goes_offline(run_dir: RunDir) -> None:
    printed = unreachable(run_dir, "auto", init_seconds=2.0, finish_seconds=40.0)
    assert printed.splitlines()[-1] == "closed"
    assert printed.count("trouble: ") == 1
    assert "recording offline" in printed
    (path,) = list(run_dir.wandb.glob("offline-run-*/*.wandb")) or [printed]
    assert isinstance(path, Path), path
    assert [row["step"] for row in history(path)] == list(range(1, 10))


def exit_after_first_teardown() -> None:
    """Let wandb end as it does where it sees in time that its killed service failed."""
    teardown, codes = wandb.teardown, [-9]

    def ending() -> None:
        with contextlib.suppress(Exception):  # another thing that it does at times
            teardown()
        if codes:
            raise SystemExit(codes.pop())

    wandb.teardown = ending  # type: ignore[assignment]


def test_the_exit_code_of_a_service_that_was_ended_is_not_ours(run_dir: RunDir) -> None:
    printed = unreachable(run_dir, "auto", 2.0, 40.0, before="exit_after_first_teardown()")
    assert "recording offline" in printed
    (path,) = run_dir.wandb.glob("offline-run-*/*.wandb")
    assert [row["step"] for row in history(path)] == list(range(1, 10))


def test_a_server_that_never_answers_does_not_keep_the_process(run_dir: RunDir) -> None:
    printed = unreachable(run_dir, "online", init_seconds=100.0, finish_seconds=6.0)
    assert printed.splitlines()[-1] == "closed"
    assert "did not finish within 6 s" in printed


def test_online_without_a_key_asks_nobody(run_dir: RunDir) -> None:
    """wandb would ask on a terminal, so it is given one."""
    script = f"""
from pathlib import Path
from launcher.metrics.wandb import WandbWriter
from launcher.run_dir import RunDir
from tests.support.records import recipe, train_record
run_dir = RunDir(Path({str(run_dir.root)!r}))
run_dir.root.mkdir()
online = recipe(logging={{"wandb": {{"project": "p", "mode": "online"}}}})
kept = WandbWriter(
    run_dir, online, run_id="i", has_key=False, resume_step=0, on_trouble=lambda text: print(text)
)
kept.train(train_record(1))
kept.close()
"""
    shell = shlex.join([sys.executable, "-c", script])
    home = {"HOME": str(run_dir.root.parent), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = outside(
        f"import os; os.execvp('script', ['script', '-qec', {shell!r}, '/dev/null'])", **home
    )
    assert done.returncode == 0, done.stdout
    assert "no API key" in done.stdout
    assert "choice" not in done.stdout


def test_a_wandb_that_is_not_installed_is_one_warning(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(run_dir, 0, 3)
    (event,) = read_lines(run_dir.events).records
    assert "ModuleNotFoundError" in event["message"]


def test_rows_that_raise_are_lost_alone(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    log = wandb.Run.log

    def fail_on_third(self: Any, values: dict[str, Any], **options: Any) -> None:
        if values["step"] == 3:
            raise ValueError("cannot encode")
        log(self, values, **options)

    monkeypatch.setattr(wandb.Run, "log", fail_on_third)
    troubles: list[str] = []
    kept = writer(run_dir, troubles)
    for step in range(1, 6):
        kept.train(train_record(step))
    kept.close()
    assert [row["step"] for row in history(files(run_dir)[0])] == [1, 2, 4, 5]
    (trouble,) = troubles
    assert "ValueError: cannot encode; 1 rows lost" in trouble


@pytest.mark.parametrize("function", ["init", "log", "finish"])
def test_a_wandb_that_blocks_costs_no_time_and_few_seconds_at_the_end(
    run_dir: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    forever: Callable[..., None],
    function: str,
) -> None:
    monkeypatch.setattr(wandb if function == "init" else wandb.Run, function, forever)
    troubles: list[str] = []
    blocked = writer(
        run_dir, troubles, run_id=f"blocked-{function}", queue_size=10, finish_seconds=1.0
    )
    began = time.monotonic()
    for step in range(1, 2001):
        blocked.train(train_record(step))
    training_seconds = time.monotonic() - began
    blocked.close()
    closing_seconds = time.monotonic() - began - training_seconds
    # Not benchmarks: `forever` is a minute, and waiting for a single row would show.
    assert training_seconds < 20
    assert closing_seconds < 20
    (trouble,) = troubles
    if function == "finish":  # rows may or may not have been drained as fast as they came
        assert "did not finish within 1 s" in trouble or "too slow" in trouble
    else:
        assert "too slow or blocked" in trouble
        assert "rows lost" in trouble


def test_trouble_is_told_on_the_thread_that_trains(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> None:
        raise OSError("quota exceeded")

    monkeypatch.setattr(wandb, "init", fail)
    threads: list[str] = []
    failing = writer(
        run_dir, [], on_trouble=lambda message: threads.append(threading.current_thread().name)
    )
    failing.train(train_record(1))
    failing.close()
    assert threads == [threading.current_thread().name]


def test_a_process_with_a_blocked_wandb_can_end(run_dir: RunDir) -> None:
    # The fault blocks for ten minutes; the process is given two.
    done = outside(
        f"""
        import time
        from pathlib import Path
        import wandb
        from launcher.run_dir import RunDir
        from tests.support.records import train_record
        from tests.unit.metrics.test_wandb import writer
        wandb.Run.log = lambda *a, **k: time.sleep(600)
        troubles = []
        blocked = writer(RunDir(Path({str(run_dir.root)!r})), troubles, finish_seconds=3.0)
        blocked.train(train_record(1))
        blocked.close()
        print("closed with", troubles, flush=True)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "did not finish within 3 s" in done.stdout


def test_a_failed_run_is_marked_as_such(run_dir: RunDir) -> None:
    failing = writer(run_dir, [])
    failing.train(train_record(1))
    failing.event(Event("failure", "t", 1, {"message": "out of memory"}))
    failing.close()
    codes = [entry.exit.exit_code for entry in entries(files(run_dir)[0]) if entry.HasField("exit")]
    assert codes == [1]


@pytest.mark.parametrize(
    ("mode", "has_key", "expected"),
    [
        ("auto", True, "online"),
        ("auto", False, "offline"),
        ("online", False, "online"),
        ("offline", True, "offline"),
    ],
)
def test_modes(mode: str, has_key: bool, expected: str) -> None:
    section = WandbSection.model_validate({"project": "p", "mode": mode})
    assert wandb_mode(section, has_key) == expected


def test_disabled_writes_nothing(run_dir: RunDir) -> None:
    disabled = recipe(logging={"wandb": {"project": "p", "mode": "disabled"}})
    with open_recorder(
        run_dir,
        disabled,
        resume_step=0,
        total_steps=2,
        wandb_run_id="abcd1234",
        has_wandb_key=True,
    ) as recorder:
        recorder.train(train_record(1))
    assert not run_dir.wandb.exists()
