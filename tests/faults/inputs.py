"""Faults of what goes in: geometry, numbers, rows, wandb, edits, two launches.
F14, F15, F16, F17, F20, F21."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import EXIT_BAD_INPUT
from tests.faults.attempt import attempt
from tests.faults.places import die_after_save
from tests.faults.setting import (
    METHODS,
    NUM_STEPS,
    SETTINGS,
    Bench,
    Setting,
    assert_same_run,
    resumed_from,
)
from tests.faults.trial import trials_on
from tests.support.launches import Launch, launch
from tests.support.training import (
    NO_DROPOUT,
    copy_model,
    events,
    records,
    run_folder,
    train,
    write_recipe,
)

CUT = 4
"""The checkpoint that a changed run goes on from."""


def other_ranks(world_size: int, micro_batch_size: int) -> Callable[[Bench, Setting, Path], str]:
    """F14: cut off on two ranks, resumed on another number of them at the other ZeRO stage."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        model = copy_model(bench.model, folder / "steady", **NO_DROPOUT)
        sections = {"model": {"path": str(model)}, "method": {**METHODS[setting.method]}}
        sections["method"].pop("dropout", None)  # drawn per rank
        whole = bench.recipe(folder / "whole", setting, **sections)
        reference = train(whole, folder / "whole", 2)
        torn = bench.recipe(folder / "torn", setting, **sections)
        run_dir = run_folder(torn)
        killed = attempt(torn, folder / "torn", lambda _rank: die_after_save(run_dir, CUT))
        assert killed.statuses == [-9, -9]
        torn["train"]["micro_batch_size"] = micro_batch_size
        torn["deepspeed"] = f"zero{5 - setting.stage}"
        reports = train(torn, folder / "torn", world_size)
        assert {report.zero_stage for report in reports} == {5 - setting.stage}
        assert resumed_from(run_dir) == CUT
        assert reports[0].sample_ids == reference[0].sample_ids[CUT:]
        for key in ("train/loss", "validation/loss", "grad_norm"):
            expected = records(run_folder(whole), key)
            found = records(run_dir, key)
            assert found == pytest.approx(expected, rel=1e-5), f"{key}: {found}, not {expected}"
        return "same samples, losses within 1e-5"

    return run


def indivisible(bench: Bench, setting: Setting, folder: Path) -> str:
    """F14: a batch of 8 can't be divided by three ranks."""
    recipe = bench.recipe(folder, setting)
    run_dir = run_folder(recipe)
    attempt(recipe, folder, lambda _rank: die_after_save(run_dir, CUT))
    refused = launch(folder, recipe, "--processes", "3")
    assert refused.returncode == EXIT_BAD_INPUT
    assert "3 ranks" in refused.stderr, refused.stderr
    assert not run_dir.launches, "nothing was started"
    return "refused before anything starts, exit 2"


def bad_numbers(policy: str) -> Callable[[Bench, Setting, Path], str]:
    """F15: the loss of one micro-batch of rank 1 is NaN in step 4."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        recipe = bench.recipe(folder, setting, train={"non_finite": policy})
        run_dir = run_folder(recipe)
        ended = attempt(recipe, folder, lambda rank: poison_rank_1(rank, step=4))
        losses = records(run_dir, "train/loss")
        if policy == "stop":
            assert ended.statuses == [1, 1], ended.text
            assert "step 4" in ended.text
            assert 4 not in losses or losses[4] is None
            assert (run_dir.checkpoint(2)).exists()
            return "both ranks stop, naming step and rows"
        assert ended.statuses == [0, 0], ended.text
        assert losses[4] is None
        assert all(loss is not None for step, loss in losses.items() if step != 4)
        (warning,) = (e for e in events(run_dir, "warning") if "nan" in e["message"])
        assert (warning["step"], list(warning["seen_by"])) == (4, ["1"]), warning
        assert len(warning["sample_ids"]) == 8
        return "skipped by all ranks, logged as null"

    return run


def poison_rank_1(rank: int, step: int) -> None:
    """Let the first micro-batch of a 1-based step give a loss that is not a number."""
    if rank != 1:
        return
    from launcher.tasks.sequence_classification import SequenceClassification
    from launcher.train.heartbeat import Heartbeat

    plain_at, plain_forward, here = Heartbeat.at, SequenceClassification.forward, [False]

    def at(self: Heartbeat, phase: str | None = None, **place: Any) -> None:
        plain_at(self, phase, **place)
        here[0] = (phase, place.get("step"), place.get("micro_step")) == ("train", step, 0)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        from dataclasses import replace

        output = plain_forward(self, *args, **kwargs)
        return replace(output, loss_sum=output.loss_sum * float("nan")) if here[0] else output

    Heartbeat.at = at  # type: ignore[method-assign]
    SequenceClassification.forward = forward  # type: ignore[method-assign]


def corrupt_row(bench: Bench, setting: Setting, folder: Path) -> str:
    rows = (bench.topics / "train.jsonl").read_text().splitlines()
    rows[40] = rows[40][:-5]
    broken = folder / "broken.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    broken.write_text("\n".join(rows) + "\n")
    recipe = bench.recipe(folder, setting, data={"train": [{"path": str(broken)}]})
    refused = launch(folder, recipe)
    assert refused.returncode == EXIT_BAD_INPUT
    assert "broken.jsonl:41" in refused.stderr, refused.stderr
    recipe["data"]["bad_rows"] = "skip"
    recipe["train"]["max_steps"] = 3
    went_on = launch(folder, recipe, "--fresh")
    assert went_on.returncode == 0, went_on.stderr
    assert "broken.jsonl:41" in went_on.stdout + went_on.stderr
    return "file and line named, exit 2; counted and named in skip mode"


def wandb_breaks(how: str) -> Callable[[Bench, Setting, Path], str]:
    """F17: wandb's `init` raises, or blocks for an hour."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        def sabotage(_rank: int) -> None:
            import wandb

            def init(*_args: Any, **_kwargs: Any) -> Any:
                if how == "blocks":
                    time.sleep(3600)
                raise RuntimeError("server error 500")

            wandb.init = init

        recipe = bench.recipe(folder, setting)
        recipe["logging"] = {"wandb": {"project": "faults", "mode": "offline"}}
        done = attempt(recipe, folder, sabotage)
        assert done.statuses == [0, 0], done.text
        assert_same_run(run_folder(recipe), bench.uninterrupted(setting))
        assert events(run_folder(recipe), "warning")
        return "a warning; bitwise the same"

    return run


def edited(what: str) -> Callable[[Bench, Setting, Path], str]:
    """F20: one thing is changed between a kill and the resume."""

    def run(bench: Bench, setting: Setting, folder: Path) -> str:
        data, model = folder / "train.jsonl", folder / "model"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(bench.topics / "train.jsonl", data)
        shutil.copytree(bench.model, model)
        recipe = bench.recipe(
            folder, setting, data={"train": [{"path": str(data)}]}, model={"path": str(model)}
        )
        run_dir = run_folder(recipe)
        killed = attempt(recipe, folder, lambda _rank: die_after_save(run_dir, CUT))
        assert killed.statuses == [-9, -9], killed.text
        if what == "recipe":
            recipe["train"]["learning_rate"] = 5.0e-4
            named, key = "learning_rate", "train.learning_rate"
        elif what == "data":
            lines = data.read_text().splitlines()
            data.write_text("\n".join(reversed(lines)) + "\n")
            named, key = "train.jsonl", "data"
        else:
            file = model / "model.safetensors"
            raw = bytearray(file.read_bytes())
            raw[-1] ^= 1
            file.write_bytes(raw)
            named, key = "model.safetensors", "model.path"
        refused = launch(folder, recipe)
        assert refused.returncode == EXIT_BAD_INPUT, refused.stderr
        assert named in refused.stderr, refused.stderr
        assert f"--allow-change {key}" in refused.stderr, refused.stderr
        allowed = launch(folder, recipe, "--allow-change", key)
        assert allowed.returncode == 0, allowed.stderr
        assert resumed_from(run_dir) == CUT
        return "refused with the difference, exit 2; --allow-change goes on"

    return run


def two_launches(bench: Bench, setting: Setting, folder: Path) -> str:
    recipe = bench.recipe(folder, setting, train={"max_steps": 400}, run={"max_restarts": 0})
    first = Launch(folder, recipe)
    first.wait_for_checkpoint(2)
    second = launch(folder, recipe)
    assert second.returncode == EXIT_BAD_INPUT, second.stderr
    assert str(first.process.pid) in second.stderr, second.stderr
    assert socket.gethostname() in second.stderr
    first.process.kill()
    first.process.communicate()
    recipe["train"]["max_steps"] = NUM_STEPS
    write_recipe(folder, recipe)
    third = launch(folder, recipe, "--allow-change", "train.max_steps")
    assert third.returncode == 0, third.stderr
    summary = json.loads(run_folder(recipe).summary.read_text())
    assert summary["step"] >= NUM_STEPS
    return "refused, holder named; a dead holder's lock taken over"


TRIALS = [
    *trials_on(
        SETTINGS,
        "F14",
        {
            "2 to 1 ranks, other stage": other_ranks(1, 4),
            "2 to 4 ranks, other stage": other_ranks(4, 1),
            "2 to 3 ranks": indivisible,
        },
    ),
    *trials_on(SETTINGS, "F15", {"stop": bad_numbers("stop"), "skip": bad_numbers("skip")}),
    *trials_on(SETTINGS, "F16", {"cut off JSON": corrupt_row}),
    *trials_on(SETTINGS, "F17", {how: wandb_breaks(how) for how in ("raises", "blocks")}),
    *trials_on(SETTINGS, "F20", {what: edited(what) for what in ("recipe", "data", "base model")}),
    *trials_on(SETTINGS, "F21", {"live and dead": two_launches}),
]
