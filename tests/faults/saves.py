"""Faults of a save: F3, F11, F26."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.errors import EXIT_BAD_INPUT
from launcher.run_dir import MANIFEST, RunDir
from tests.faults import inject
from tests.faults.attempt import attempt
from tests.faults.places import at_step
from tests.faults.setting import (
    NUM_STEPS,
    SETTINGS,
    Bench,
    Setting,
    assert_same_run,
    resumed_from,
)
from tests.faults.trial import Trial, trials_on
from tests.support.launches import launch
from tests.support.programs import need_root
from tests.support.training import events, run_folder

STEP = 6
"""The save that is disturbed: it has two before it, so that it prunes one."""
NOWHERE = 1_000_000


def kills_at_every_point(bench: Bench, folder: Path, settings: list[Setting]) -> Iterator[Trial]:
    """F3: yield one trial for each rank and operation of a save, as an undisturbed one shows."""
    for setting in settings:
        for rank, operations in enumerate(operations_of_a_save(bench, setting, folder)):
            for number, operation in enumerate(operations):
                name = f"rank {rank} before {number}: {operation}"
                yield Trial("F3", name, setting, kill_at(rank, number))


def operations_of_a_save(bench: Bench, setting: Setting, folder: Path) -> list[list[str]]:
    """Return every operation of the save of STEP, by rank."""
    target = folder / f"count-{setting.stage}-{setting.method}"
    recipe = bench.recipe(target, setting)

    def count(rank: int) -> None:
        operations = inject.Operations(STEP, NOWHERE, inject.kill)
        inject.observe(operations)
        inject.observe(_keep_list(operations, target / f"operations-{rank}"))

    done = attempt(recipe, target, count)
    assert done.statuses == [0, 0], done.text
    found = [(target / f"operations-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert any("rename manifest.json" in line for line in found[0]), found
    return found


def _keep_list(operations: inject.Operations, path: Path) -> Callable[[str, Path, int], None]:
    def keep(_operation: str, _path: Path, _num_bytes: int) -> None:
        path.write_text("\n".join(operations.seen))

    return keep


def kill_at(rank: int, number: int) -> Callable[[Bench, Setting, Path], str]:
    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        def sabotage(own: int) -> None:
            if own == rank:
                inject.observe(inject.Operations(STEP, number, inject.kill))

        recipe = bench.recipe(folder, setting)
        killed = attempt(recipe, folder, sabotage)
        assert killed.statuses[rank] == -9, killed.text
        assert killed.statuses[1 - rank] != 0
        run_dir = killed.run_dir
        resumed = attempt(recipe, folder)
        assert resumed.statuses == [0, 0], resumed.text
        step = resumed_from(run_dir)
        assert STEP - 2 <= step <= STEP, step
        _assert_nothing_half_is_left(run_dir)
        assert_same_run(run_dir, bench.uninterrupted(setting))
        return "resumed, bitwise the same"

    return run


def _assert_nothing_half_is_left(run_dir: RunDir) -> None:
    for folder in run_dir.checkpoints.glob("step-*"):
        assert (folder / MANIFEST).exists(), folder


def disk_full_goes_on(bench: Bench, setting: Setting, folder: Path) -> str:
    """A real tmpfs is full during the save of step 6, and has room again for that of step 8; the
    space check is blinded, so that a write fails."""
    recipe, run_dir = _on_own_disk(bench, setting, folder)
    try:
        done = attempt(recipe, folder, _fill_between(bench, setting, folder, blind=True))
        assert done.statuses == [0, 0], done.text
        (failed,) = events(run_dir, "save_failed")
        assert failed["step"] == STEP
        assert "No space left" in failed["message"]
        assert str(run_dir.checkpoint(STEP)) in failed["message"]
        assert "free" in failed["message"]
        saved = {event["step"] for event in events(run_dir, "checkpoint")}
        assert saved == {2, 4, NUM_STEPS}
        assert_same_run(run_dir, bench.uninterrupted(setting))
        return "the save failed, path and bytes named; the run went on, bitwise the same"
    finally:
        _unmount(folder)


def blind_space_check(_rank: int) -> None:
    from launcher.train import saver

    saver.shutil = Blind()  # type: ignore[assignment]


class Blind:
    """`shutil` as the saver uses it, on a disk that always says it has room."""

    @staticmethod
    def disk_usage(_path: Path) -> Any:
        return shutil._ntuple_diskusage(1 << 50, 0, 1 << 50)  # type: ignore[attr-defined]


def disk_full_stops(bench: Bench, setting: Setting, folder: Path) -> str:
    """The same disk with the space check as it is: the save isn't even begun."""
    recipe, run_dir = _on_own_disk(bench, setting, folder)
    recipe["checkpoint"]["if_save_fails"] = "stop"
    try:
        stopped = attempt(recipe, folder, _fill_between(bench, setting, folder, blind=False))
        assert stopped.statuses == [1, 1], stopped.text
        for word in ("was not saved", "needs", "are free", str(run_dir.checkpoint(STEP))):
            assert word in stopped.text, word
        (folder / "runs" / "filler").unlink()
        resumed = attempt(recipe, folder)
        assert resumed.statuses == [0, 0], resumed.text
        assert resumed_from(run_dir) == STEP - 2
        assert_same_run(run_dir, bench.uninterrupted(setting))
        return "stopped, needed and free bytes named; resumed bitwise the same"
    finally:
        _unmount(folder)


def disk_too_small(bench: Bench, setting: Setting, folder: Path) -> str:
    """What can be foreseen: the disk never has room for the run's checkpoints."""
    recipe, run_dir = _on_own_disk(bench, setting, folder, size=40_960)
    try:
        refused = launch(folder, recipe)
        assert refused.returncode == EXIT_BAD_INPUT, refused.stderr
        assert "free" in refused.stderr, refused.stderr
        assert not run_dir.launches
        return "refused before anything starts, exit 2"
    finally:
        _unmount(folder)


def _on_own_disk(
    bench: Bench, setting: Setting, folder: Path, size: int = 256 << 20
) -> tuple[dict[str, Any], RunDir]:
    need_root("a disk of its own")
    recipe = bench.recipe(folder, setting, checkpoint={"asynchronous": False})
    (folder / "runs").mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs"]
    subprocess.run([*command, str(folder / "runs")], check=True)
    return recipe, run_folder(recipe)


def _fill_between(
    bench: Bench, setting: Setting, folder: Path, *, blind: bool
) -> Callable[[int], None]:
    """Leave half of what a save needs from step 5 on; give the room back at step 7."""
    one = sum(file.stat().st_size for file in bench.uninterrupted(setting).checkpoint(8).iterdir())
    filler = folder / "runs" / "filler"

    def fill() -> None:
        free = shutil.disk_usage(filler.parent).free
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - one // 2)

    def sabotage(rank: int) -> None:
        if blind:
            blind_space_check(rank)
        if rank == 0:
            at_step(STEP - 1, fill)
            if blind:
                at_step(STEP + 1, filler.unlink)

    return sabotage


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder / "runs")], check=True)


def fsync_fails(bench: Bench, setting: Setting, folder: Path) -> str:
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)

    def sabotage(rank: int) -> None:
        if rank == 1:
            inject.observe(inject.fail_fsync_of(4))

    done = attempt(recipe, folder, sabotage)
    assert done.statuses == [0, 0], done.text
    (failed,) = events(run_dir, "save_failed")
    assert failed["step"] == 4
    assert "rank 1" in failed["message"]
    assert "rank-00001.safetensors" in failed["message"]
    assert 4 not in {event["step"] for event in events(run_dir, "checkpoint")}
    assert not run_dir.checkpoint(4).exists()
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "reported by all as failed, nothing left of it, the run went on"


def becomes_read_only(bench: Bench, setting: Setting, folder: Path) -> str:
    """The checkpoints become read-only right before the save of step 4."""
    need_root("a read-only folder")
    recipe = bench.recipe(folder, setting, checkpoint={"if_save_fails": "stop"})
    run_dir = run_folder(recipe)
    frozen = str(run_dir.checkpoints)

    def freeze(_operation: str, _path: Path) -> None:
        subprocess.run(["mount", "--bind", frozen, frozen], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", frozen], check=True)

    def sabotage(rank: int) -> None:
        if rank == 0:
            inject.observe(inject.Operations(4, 0, freeze))

    stopped = attempt(recipe, folder, sabotage)
    subprocess.run(["umount", frozen], check=True)
    assert stopped.statuses == [1, 1], stopped.text
    assert "Read-only file system" in stopped.text, stopped.text
    assert 4 not in {event["step"] for event in events(run_dir, "checkpoint")}
    resumed = attempt(recipe, folder)
    assert resumed.statuses == [0, 0], resumed.text
    assert resumed_from(run_dir) == 2
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "never said to be saved; resumed bitwise the same"


TRIALS = [
    *trials_on(
        SETTINGS,
        "F11",
        {"goes on": disk_full_goes_on, "stops": disk_full_stops, "foreseen": disk_too_small},
    ),
    *trials_on(SETTINGS, "F26", {"fsync": fsync_fails, "read-only": becomes_read_only}),
]
