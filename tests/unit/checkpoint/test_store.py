"""A checkpoint is what its manifest says, or it is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.checkpoint import store
from launcher.checkpoint.manifest import MANIFEST, read_manifest
from launcher.errors import NoCheckpointError
from launcher.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def save(run_dir: RunDir, step: int, *, best: bool = False, keep_last: int = 2) -> Path:
    folder = store.begin(run_dir, step)
    (folder / "engine").mkdir()
    (folder / "engine" / "weights.pt").write_bytes(b"weights" * step)
    store.flush(folder)
    store.commit(
        folder, {"step": step}, step=step, world_size=2, zero_stage=3, recipe_digest="digest"
    )
    store.point(run_dir.latest, folder)
    if best:
        store.point(run_dir.best, folder)
    store.prune(run_dir, keep_last)
    return folder


def test_newest_is_found_with_its_state(run_dir: RunDir) -> None:
    save(run_dir, 1)
    folder = save(run_dir, 2)
    assert store.newest_verified(run_dir) == folder
    assert store.read_state(folder) == {"step": 2}
    manifest = read_manifest(folder)
    assert (manifest.world_size, manifest.zero_stage, manifest.step) == (2, 3, 2)
    assert set(manifest.files) == {"engine/weights.pt", "state.json"}
    assert run_dir.latest.resolve() == folder.resolve()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "empty manifest"])
def test_damage_falls_back_and_says_why(run_dir: RunDir, damage: str) -> None:
    good, bad = save(run_dir, 1), save(run_dir, 2)
    weights, manifest = bad / "engine" / "weights.pt", bad / MANIFEST
    data = weights.read_bytes()
    match damage:
        case "truncate":
            weights.write_bytes(data[:-1])
        case "flip":
            weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "remove":
            weights.unlink()
        case "manifest":
            manifest.unlink()
        case "empty manifest":
            manifest.write_text("")
    newest, (passed_over,) = store.find_newest(run_dir)
    assert newest == good
    assert passed_over.folder == bad
    assert ("manifest" if "manifest" in damage else "weights.pt") in passed_over.reason or (
        "never committed" in passed_over.reason
    )


def test_none_usable_is_an_error_that_names_all(run_dir: RunDir) -> None:
    (save(run_dir, 1) / MANIFEST).unlink()
    with pytest.raises(NoCheckpointError, match="step-000001: was never committed") as caught:
        store.newest_verified(run_dir)
    assert caught.value.exit_code == 3


def test_pruning_keeps_the_newest_two_and_the_best(run_dir: RunDir) -> None:
    for step in range(1, 7):
        save(run_dir, step, best=step == 2, keep_last=1)
    assert [folder.name for folder in store.committed(run_dir)] == [
        "step-000002",
        "step-000005",
        "step-000006",
    ]
    assert store.best_verified(run_dir) == run_dir.checkpoint(2)


def test_a_damaged_best_is_never_replaced_silently(run_dir: RunDir) -> None:
    best = save(run_dir, 1, best=True)
    save(run_dir, 2)
    (best / "engine" / "weights.pt").write_bytes(b"")
    with pytest.raises(NoCheckpointError, match="--weights last"):
        store.best_verified(run_dir)


def test_a_leftover_folder_is_put_aside_not_reused(run_dir: RunDir) -> None:
    torn = store.begin(run_dir, 1)
    (torn / "half").write_text("x")
    folder = store.begin(run_dir, 1)
    assert not list(folder.iterdir())
    (aside,) = (run_dir.checkpoints / "quarantine").iterdir()
    assert (aside / "half").read_text() == "x"
