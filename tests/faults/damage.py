"""What lies on disk is damaged, or was put there by somebody else: F12, F13."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.checkpoint.manifest import read_manifest, write_manifest
from launcher.errors import EXIT_NO_CHECKPOINT
from launcher.files.read import sha256_of
from launcher.files.write import FileRecord
from launcher.run_dir import MANIFEST, RunDir
from tests.faults.attempt import attempt
from tests.faults.places import die_after_save
from tests.faults.setting import SETTINGS, Bench, Setting, assert_same_run, resumed_from
from tests.faults.trial import trials_on
from tests.support.training import events, run_folder

STEP = 6
"""Of the newest checkpoint: two lie before it."""


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path) -> None:
    file.unlink()


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {"truncated": truncate, "emptied": empty, "deleted": delete, "one bit": flip_bit}
FILES = (MANIFEST, "rank-00000.safetensors", "rank-00001.safetensors", "probe.safetensors")


def damage_file(name: str, damage: Callable[[Path], None]) -> Callable[[Bench, Setting, Path], str]:
    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        run_dir, recipe = _interrupted(bench, setting, folder)
        newest = run_dir.checkpoint(STEP)
        damage(newest / name)
        resumed = attempt(recipe, folder)
        assert resumed.statuses == [0, 0], resumed.text
        assert resumed_from(run_dir) == STEP - 2
        warnings = [event["message"] for event in events(run_dir, "warning")]
        said = [text for text in warnings if newest.name in text]
        assert said, warnings
        assert name in said[0] or (name == MANIFEST and "manifest" in said[0]), said
        assert_same_run(run_dir, bench.uninterrupted(setting))
        return "fell back, named the file, bitwise the same"

    return run


def damage_all(bench: Bench, setting: Setting, folder: Path) -> str:
    run_dir, recipe = _interrupted(bench, setting, folder)
    for checkpoint in run_dir.checkpoints.glob("step-*"):
        flip_bit(checkpoint / "rank-00000.safetensors")
    refused = attempt(recipe, folder)
    assert refused.statuses == [EXIT_NO_CHECKPOINT] * 2, refused.text
    assert "rank-00000.safetensors is damaged" in refused.text
    return "exit 3, every checkpoint named"


def _interrupted(bench: Bench, setting: Setting, folder: Path) -> tuple[RunDir, dict[str, Any]]:
    """Return a run that was killed behind the checkpoint of STEP."""
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)

    def sabotage(_rank: int) -> None:
        die_after_save(run_dir, STEP)

    killed = attempt(recipe, folder, sabotage)
    assert killed.statuses == [-9, -9], killed.text
    assert (run_dir.checkpoint(STEP) / MANIFEST).exists()
    return run_dir, recipe


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self._marker}",))


def pickle_payload(name: str, *, forged: bool) -> Callable[[Bench, Setting, Path], str]:
    """`forged`: the manifest is made to match, as somebody with write access could do."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        run_dir, recipe = _interrupted(bench, setting, folder)
        marker = folder / "executed"
        payload = pickle.dumps(Payload(marker))
        pickle.loads(payload)
        assert marker.exists(), "the payload itself has to work"
        marker.unlink()
        file = run_dir.checkpoint(STEP) / name
        file.write_bytes(payload)
        if forged:
            manifest = read_manifest(run_dir.checkpoint(STEP))
            record = FileRecord(file.stat().st_size, sha256_of(file))
            files = {**manifest.files, name: record}
            write_manifest(run_dir.checkpoint(STEP), replace(manifest, files=files))
        ended = attempt(recipe, folder)
        assert not marker.exists()
        assert "Traceback" not in ended.text, ended.text
        return "not executed"

    return run


TRIALS = [
    *trials_on(
        SETTINGS,
        "F12",
        {
            **{
                f"{file} {how}": damage_file(file, damage)
                for file in FILES
                for how, damage in DAMAGES.items()
            },
            "all damaged": damage_all,
        },
    ),
    *trials_on(
        SETTINGS,
        "F13",
        {
            f"{file} {'forged' if forged else 'replaced'}": pickle_payload(file, forged=forged)
            for file, forged in (
                ("rank-00000.safetensors", False),
                ("rank-00000.safetensors", True),
                ("probe.safetensors", True),
                (MANIFEST, False),
            )
        },
    ),
]
