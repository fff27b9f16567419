"""Stops: F4, F6, F7, F18, F19."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.errors import EXIT_STOPPED
from launcher.run_dir import MANIFEST, RunDir
from tests.faults import inject
from tests.faults.attempt import attempt
from tests.faults.places import at_place, at_step, note_places
from tests.faults.setting import (
    INTERVAL,
    NUM_STEPS,
    SETTINGS,
    Bench,
    Setting,
    assert_same_run,
    resumed_from,
)
from tests.faults.trial import Trial, trials_on
from tests.support.launches import Launch
from tests.support.training import events, run_folder

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NUM_SIGNALS = 50
MOST_TRIES = 6
NUM_TO_THE_LAUNCHER = 10


def signals_at_random_places(
    bench: Bench, folder: Path, settings: list[Setting], seed: int
) -> Iterator[Trial]:
    """F4: yield 50 trials, spread over the settings, over signals, and over whom they reach."""
    chance = random.Random(seed)
    places = {setting: _places(bench, setting, folder) for setting in settings}
    for number in range(NUM_SIGNALS):
        setting = settings[number % len(settings)]
        which = chance.choice(SIGNALS)
        if number < NUM_TO_THE_LAUNCHER:
            delay = chance.uniform(0.0, 1.5)
            run = signal_the_launcher(which, delay)
            yield Trial("F4", f"{which.name} to launcher run, {delay:.2f} s in", setting, run)
            continue
        last_stoppable = _last_boundary(places[setting])
        place = chance.randrange(1, last_stoppable)
        whom = chance.choice(["rank 0", "rank 1", "all"])
        phase, step, micro_step = places[setting][place - 1]
        where = f"{phase} {step or ''}{f'.{micro_step}' if micro_step is not None else ''}".strip()
        run = signal_at(which, place, whom)
        yield Trial("F4", f"{which.name} to {whom} at {where}", setting, run)


def _places(bench: Bench, setting: Setting, folder: Path) -> list[list[Any]]:
    """Return every place that rank 0 passes in an undisturbed run."""
    target = folder / f"places-{setting.stage}-{setting.method}"
    recipe = bench.recipe(target, setting)
    done = attempt(recipe, target, lambda rank: note_places(target / f"places-{rank}"))
    assert done.statuses == [0, 0], done.text
    return [json.loads(line) for line in (target / "places-0").read_text().splitlines()]


def _last_boundary(places: list[list[Any]]) -> int:
    """Return the number of the last place before the last decision on a stop."""
    return max(number for number, (phase, *_) in enumerate(places, 1) if phase == "evaluate")


def signal_at(
    which: signal.Signals, place: int, whom: str
) -> Callable[[Bench, Setting, Path], str]:
    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        def sabotage(rank: int) -> None:
            if whom in (f"rank {rank}", "all"):
                at_place(place, lambda: os.kill(os.getpid(), which))

        recipe = bench.recipe(folder, setting)
        stopped = attempt(recipe, folder, sabotage)
        return _stopped_and_resumes(bench, setting, folder, stopped.statuses, recipe)

    return run


def signal_the_launcher(
    which: signal.Signals, delay: float
) -> Callable[[Bench, Setting, Path], str]:
    """Done again with half of the delay where the run finished first: that would prove nothing."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        for number in range(MOST_TRIES):
            seen = _signal_after(delay / 2**number, which, bench, setting, folder / str(number))
            if seen is not None:
                return seen
        raise AssertionError(f"finished before each of {MOST_TRIES} signals")

    return run


def _signal_after(
    delay: float, which: signal.Signals, bench: Bench, setting: Setting, folder: Path
) -> str | None:
    """Return what came of a signal; None where the run had finished before it."""
    recipe = bench.recipe(folder, setting)
    launch = Launch(folder, recipe)
    launch.wait_for(lambda: bool(events_or_none(launch.run_dir, "start")))
    time.sleep(delay)
    launch.process.send_signal(which)
    code, _, stderr = launch.end()
    if code == 0:
        assert_same_run(launch.run_dir, bench.uninterrupted(setting))
        return None
    assert code == EXIT_STOPPED, stderr
    if not events(launch.run_dir, "stop")[-1]["step"]:
        resumed = attempt(recipe, folder)
        assert resumed.statuses == [0, 0], resumed.text
        assert_same_run(launch.run_dir, bench.uninterrupted(setting))
        return "stopped before the first step, bitwise the same"
    return _stopped_and_resumes(bench, setting, folder, [code, code], recipe)


def events_or_none(run_dir: RunDir, kind: str) -> list[dict[str, Any]]:
    """Return events where there may be no file yet, or a line half written."""
    try:
        return events(run_dir, kind)
    except (OSError, ValueError):
        return []


def wait_for_event(run_dir: RunDir, kind: str) -> None:
    """Wait until a run has recorded an event of a kind, a minute at most."""
    deadline = time.monotonic() + 60.0
    while not events_or_none(run_dir, kind) and time.monotonic() < deadline:
        time.sleep(0.02)


def _stopped_and_resumes(
    bench: Bench, setting: Setting, folder: Path, statuses: list[int], recipe: dict[str, Any]
) -> str:
    run_dir = run_folder(recipe)
    assert statuses == [EXIT_STOPPED] * 2, statuses
    (stop,) = events(run_dir, "stop")
    newest = max(run_dir.checkpoints.glob(f"step-*/{MANIFEST}")).parent
    assert newest.name == f"step-{stop['step']:06d}"
    resumed = attempt(recipe, folder)
    assert resumed.statuses == [0, 0], resumed.text
    assert resumed_from(run_dir) == stop["step"]
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "one checkpoint at one step, exit 75, bitwise the same"


def killed_before_the_save_is_done(bench: Bench, setting: Setting, folder: Path) -> str:
    """F6: the save of a stop takes longer than the kill leaves it; and it was foreseen."""
    recipe = bench.recipe(folder, setting, run={"grace_seconds": 0.5})
    run_dir = run_folder(recipe)
    rate = _slow_enough(bench, setting)  # here: a rank must not train the run that it asks for

    def sabotage(_rank: int) -> None:
        inject.observe(inject.throttle(rate))
        at_step(NUM_STEPS - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def kill_when_saving(pids: list[int]) -> None:
        wait_for_event(run_dir, "stop")
        time.sleep(0.3)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    killed = attempt(recipe, folder, sabotage, meanwhile=kill_when_saving)
    assert killed.statuses == [-9, -9], killed.text
    warnings = [event["message"] for event in events(run_dir, "warning")]
    assert any("grace" in message for message in warnings), warnings
    resumed = attempt(recipe, folder)
    assert resumed.statuses == [0, 0], resumed.text
    assert 0 < resumed_from(run_dir) <= NUM_STEPS - 2
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "warned before; the checkpoint before it was resumed, bitwise the same"


def _slow_enough(bench: Bench, setting: Setting) -> float:
    """Return a rate at which a rank needs about 1.5 s to write its part."""
    file = bench.uninterrupted(setting).checkpoint(NUM_STEPS) / "rank-00000.safetensors"
    return file.stat().st_size / 1.5


def signals_while_saving(bench: Bench, setting: Setting, folder: Path) -> str:
    """F7: after the first signal has led to the save, more of them arrive while it is written."""
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)
    rate = _slow_enough(bench, setting)

    def sabotage(rank: int) -> None:
        inject.observe(inject.throttle(rate))
        if rank == 1:
            at_step(INTERVAL + 1, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def signal_again(pids: list[int]) -> None:
        wait_for_event(run_dir, "stop")
        for which in SIGNALS:
            time.sleep(0.1)
            for pid in pids:
                os.kill(pid, which)

    stopped = attempt(recipe, folder, sabotage, meanwhile=signal_again)
    return _stopped_and_resumes(bench, setting, folder, stopped.statuses, recipe)


def time_limit(bench: Bench, setting: Setting, folder: Path) -> str:
    """F18: a limit of a few seconds for steps that are slowed down; the stop comes before it."""
    return _limited(bench, setting, folder, jump_seconds=0.0)


def clock_jumps(bench: Bench, setting: Setting, folder: Path) -> str:
    """F19: the same while the wall clock of every rank jumps an hour ahead and back."""
    return _limited(bench, setting, folder, jump_seconds=3600.0)


def _limited(bench: Bench, setting: Setting, folder: Path, *, jump_seconds: float) -> str:
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)
    ends: list[float] = []

    def sabotage(_rank: int) -> None:
        from launcher.train.heartbeat import Heartbeat

        plain, real_time, steps = Heartbeat.at, time.time, [0]

        def at(self: Heartbeat, phase: str | None = None, **place: Any) -> None:
            plain(self, phase, **place)
            if phase == "train" and place.get("micro_step") == 0:
                steps[0] += 1
                if steps[0] == 1:
                    self.limit(time.monotonic() + 12.0)
                time.sleep(1.5)
                offset = jump_seconds * (-1) ** steps[0]
                time.time = lambda: real_time() + offset

        Heartbeat.at = at  # type: ignore[method-assign]

    began = time.monotonic()
    stopped = attempt(recipe, folder, sabotage)
    ends.append(time.monotonic() - began)
    (stop,) = events(run_dir, "stop")
    assert stop["reason"] == "time limit"
    assert 0 < stop["step"] < NUM_STEPS
    said = _stopped_and_resumes(bench, setting, folder, stopped.statuses, recipe)
    return f"stopped in time; {said}"


TRIALS = [
    *trials_on(SETTINGS, "F6", {"killed in the save of a stop": killed_before_the_save_is_done}),
    *trials_on(SETTINGS, "F7", {"three more signals to all": signals_while_saving}),
    *trials_on(SETTINGS, "F18", {"steps of 1.5 s": time_limit}),
    *trials_on(SETTINGS, "F19", {"an hour ahead and back": clock_jumps}),
]
