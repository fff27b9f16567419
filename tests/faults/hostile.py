"""Faults of what others put into a run folder or change in it: F30 entries, F31 records, F32 the
token cache, F33 step numbers of seven digits."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from launcher.checkpoint.manifest import read_manifest, write_manifest
from launcher.errors import EXIT_BAD_INPUT, InputError
from launcher.recipe.resolve import resolve
from launcher.run_dir import RunDir, step_of
from tests.faults.attempt import Attempt, attempt
from tests.faults.places import die_after_save
from tests.faults.setting import (
    INTERVAL,
    NUM_STEPS,
    SETTINGS,
    Bench,
    Setting,
    assert_same_run,
    resumed_from,
)
from tests.faults.trial import trials_on
from tests.support import mutate
from tests.support.readers import read_all
from tests.support.training import events, records, run_folder, train, write_recipe

CUT = 2 * INTERVAL
"""The checkpoint that the killed run goes on from."""
IN_THE_WAY = ("export", "report.html")
"""Strays that a run's own results would take the place of."""
ODD_LINES = (
    '{"step": "soon", "kind": 7, "train/loss": []}', "[" * 20_000, '{"step": ' + "9" * 5000 + "}",
    "null", '{"step": 3', "\x00\x00", '{"train/loss": NaN, "step": -1}',
)  # fmt: skip
SEED = 20261128
LATE = 1_000_002
"""The checkpoint that a late run goes on from."""


def killed_run(recipe: dict[str, object], folder: Path) -> RunDir:
    """Train until all ranks die behind a save."""
    run_dir = run_folder(recipe)
    killed = attempt(recipe, folder, lambda _rank: die_after_save(run_dir, CUT))
    assert killed.statuses == [-9, -9], killed.text
    return run_dir


def resumed_as_if_nothing_had_happened(
    done: Attempt, run_dir: RunDir, bench: Bench, setting: Setting
) -> str:
    assert done.statuses == [0, 0], done.text
    assert "Traceback" not in done.text, done.text
    assert resumed_from(run_dir) >= INTERVAL
    assert_same_run(run_dir, bench.uninterrupted(setting))
    return "resumed, bitwise the same"


def strays(exchange: mutate.Mutation) -> Callable[[Bench, Setting, Path], str]:
    """F30: entries of one kind in every folder of a run, under names of ours and of others."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        recipe = bench.recipe(folder, setting)
        run_dir = killed_run(recipe, folder)
        chance = random.Random(SEED)
        for name in mutate.STRAYS:
            path = run_dir.root / name
            if name not in IN_THE_WAY and not os.path.lexists(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                exchange(path, chance)
        read_all(run_dir.root)
        done = attempt(recipe, folder)
        return resumed_as_if_nothing_had_happened(done, run_dir, bench, setting)

    return run


def in_the_place_of_the_export(bench: Bench, setting: Setting, folder: Path) -> str:
    """F30: what lies there is refused and kept; once it is gone the same command ends the run."""
    recipe = bench.recipe(folder, setting)
    run_dir = killed_run(recipe, folder)
    mine = folder / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("mine")
    run_dir.export.symlink_to(mine)
    refused = attempt(recipe, folder)
    assert refused.statuses[0] == EXIT_BAD_INPUT, refused.text
    assert "is a link to" in refused.text
    assert [path.name for path in mine.iterdir()] == ["thesis"]
    run_dir.export.unlink()
    done = attempt(recipe, folder)
    resumed_as_if_nothing_had_happened(done, run_dir, bench, setting)
    return "refused and named; bitwise the same once it is gone"


def odd_records(bench: Bench, setting: Setting, folder: Path) -> str:
    """F31: lines that are no records, and values of other types, in every file but the recipe."""
    recipe = bench.recipe(folder, setting)
    run_dir = killed_run(recipe, folder)
    chance = random.Random(SEED)
    for path in (run_dir.metrics, run_dir.events):
        lines = path.read_bytes().split(b"\n")
        for line in ODD_LINES:
            lines.insert(chance.randrange(len(lines)), line.encode())
        path.write_bytes(b"\n".join(lines))
    for path in (run_dir.timings, run_dir.data_report, run_dir.ds_config, run_dir.lock):
        path.write_bytes(mutate.odd_text(chance))
    newest = run_dir.committed[-1] / "manifest.json"
    newest.write_text(json.dumps({**json.loads(newest.read_text()), "step": "soon"}))
    read_all(run_dir.root)
    done = attempt(recipe, folder)
    resumed_as_if_nothing_had_happened(done, run_dir, bench, setting)
    told = [event["message"] for event in events(run_dir, "warning")]
    for name in (run_dir.metrics.name, run_dir.events.name):
        assert any(message.startswith(f"{name}: dropped torn line") for message in told), told
    return "set aside and counted, bitwise the same"


def odd_recipe(bench: Bench, setting: Setting, folder: Path) -> str:
    """F31: the recipe of the run can't be read: nobody trains anything else into its folder."""
    recipe = bench.recipe(folder, setting)
    run_dir = killed_run(recipe, folder)
    kept = run_dir.resolved.read_bytes()
    for text in mutate.ODD_TEXTS:
        run_dir.resolved.write_bytes(text.encode())
        read_all(run_dir.root)
        refused = attempt_refused(recipe, folder)
        assert "is not a recipe that this version can read" in refused, (text[:40], refused)
    run_dir.resolved.write_bytes(kept)
    resumed_as_if_nothing_had_happened(attempt(recipe, folder), run_dir, bench, setting)
    return "refused and named; bitwise the same once it is back"


def attempt_refused(recipe: dict[str, object], folder: Path) -> str:
    """Return why a launch is refused before any rank starts."""
    try:
        resolve(write_recipe(folder, recipe), processes=2)
    except InputError as error:
        return str(error)
    raise AssertionError("it was not refused")


def altered(name: str) -> Callable[[Bench, Setting, Path], str]:
    """F32: a file of the prepared data is changed, its size kept."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        cache = folder / "cache"
        recipe = bench.recipe(folder, setting, data={"cache_dir": str(cache)})
        run_dir = killed_run(recipe, folder)
        (path,) = cache.glob(f"*/build-*/train/{name}")
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        refused = attempt(recipe, folder, prepares=False)
        assert refused.statuses[0] == EXIT_BAD_INPUT, refused.text
        assert "changed" in refused.text, refused.text
        done = attempt(recipe, folder)
        resumed_as_if_nothing_had_happened(done, run_dir, bench, setting)
        return "refused by the ranks; prepared anew, bitwise the same"

    return run


def seven_digits(bench: Bench, setting: Setting, folder: Path) -> str:
    """F33: a run on both sides of step 1,000,000, where names grow by a digit."""
    begin, last = 999_996, 1_000_004
    sections = {
        "train": {"max_steps": last, "schedule": "constant", "warmup_steps": 0},
        "checkpoint": {"keep_last": 2, "every_steps": INTERVAL},
    }
    recipes = {}
    for name in ("whole", "torn"):
        recipes[name] = bench.recipe(folder / name, setting, **sections)
        run_dir = run_folder(recipes[name])
        killed = attempt(
            recipes[name], folder / name, lambda _rank, own=run_dir: die_after_save(own, INTERVAL)
        )
        assert killed.statuses == [-9, -9], killed.text
        move_to_step(run_dir, INTERVAL, begin)
    train(recipes["whole"], folder / "whole", 2)
    torn = run_folder(recipes["torn"])
    killed = attempt(recipes["torn"], folder / "torn", lambda _rank: die_after_save(torn, LATE))
    assert killed.statuses == [-9, -9], killed.text
    done = attempt(recipes["torn"], folder / "torn")
    assert done.statuses == [0, 0], done.text
    assert resumed_from(torn) == LATE
    whole = run_folder(recipes["whole"])
    for key in ("train/loss", "grad_norm", "validation/loss"):
        assert records(torn, key) == records(whole, key), key
    assert max(records(torn, "train/loss")) == last
    for run_dir in (torn, whole):
        kept = {step_of(path) for path in run_dir.committed}
        assert {LATE, last} <= kept <= {LATE, last, step_of(run_dir.best.resolve())}
        assert run_dir.latest.resolve() == run_dir.checkpoint(last).resolve()
    return "the oldest pruned, the newest resumed, bitwise the same"


def move_to_step(run_dir: RunDir, step: int, later: int) -> None:
    """Let the only checkpoint of a run say that it is one of many steps later."""
    folder, target = run_dir.checkpoint(step), run_dir.checkpoint(later)
    folder.rename(target)
    manifest = read_manifest(target)
    stop = {**manifest.progress["stop"], "best_step": None, "best_value": None}
    progress = {**manifest.progress, "step": later, "stop": stop}
    write_manifest(target, replace(manifest, step=later, progress=progress))
    for path in (run_dir.latest, run_dir.best, run_dir.metrics):
        path.unlink(missing_ok=True)
    shutil.rmtree(run_dir.root / "logs", ignore_errors=True)


STRAYS = {
    exchange.__name__.removeprefix("as_").replace("_", " "): strays(exchange)
    for exchange in dict.fromkeys(mutate.EXCHANGES)
}
TRIALS = [
    *trials_on(SETTINGS, "F30", {**STRAYS, "an export": in_the_place_of_the_export}),
    *trials_on(SETTINGS, "F31", {"records": odd_records, "recipe": odd_recipe}),
    *trials_on(
        SETTINGS,
        "F32",
        {"tokens": altered("input_ids.bin"), "labels": altered("label.npy")},
    ),
    *trials_on(SETTINGS, "F33", {"seven digits": seven_digits}),
]
assert NUM_STEPS > CUT
