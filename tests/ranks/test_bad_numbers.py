"""Numbers gone bad are never silent: all ranks skip or stop, and say where it was."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from launcher.checkpoint.manifest import read_manifest
from launcher.checkpoint.store import newest_verified
from launcher.shipped import shipped_folder
from launcher.train.step_observer import StepObserver
from tests.support.bad_numbers import Kind, Poison
from tests.support.ranks import RanksFailed
from tests.support.training import base_recipe, events, records, run_folder, train

if TYPE_CHECKING:
    from launcher.data.sampler import Window
    from launcher.train.session import Session

SIZES = {"global_batch_size": 8, "micro_batch_size": 2, "max_steps": 8}
POISON: dict[int, Kind] = {3: "nan loss", 4: "infinite gradient", 6: "infinite loss"}
HUGE: dict[int, Kind] = {5: "huge loss"}
STAGES = ("zero0", "zero1", "zero2", "zero3")
ALL = [
    *((stage, dtype, "full") for stage in STAGES for dtype in ("float32", "bfloat16")),
    ("zero2", "float32", "lora"),
    ("zero3", "bfloat16", "lora"),
    ("zero3_offload", "float32", "full"),
]


def _recipe(
    folder: Path, model: Path, topics: Path, case: tuple[str, str, str], /, **train_keys: Any
) -> dict[str, Any]:
    stage, dtype, method = case
    return base_recipe(
        folder,
        model,
        "sequence-classification",
        topics / "train.jsonl",
        model={"dtype": dtype},
        method={"type": method},
        train=SIZES | train_keys,
        deepspeed=stage,
    )


def poisoned(
    recipe: dict[str, Any],
    folder: Path,
    poison: Poison,
    prepare: Callable[[], None] = lambda: None,
    kill_after: int | None = None,
) -> None:
    """Train on two ranks, of which one is poisoned."""

    def sabotage() -> None:
        prepare()
        poison()

    train(recipe, folder, 2, sabotage=sabotage, observers=(poison,), kill_after=kill_after)


def _micro_batch(window: list[int]) -> list[int]:
    """The second micro-batch of rank 1: of 2 x 2 x 2 samples the last two."""
    return window[6:8]


@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_a_skipped_step_leaves_no_trace_but_a_warning(
    case: tuple[str, str, str], tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    """The run goes on as one that never took those steps does, to the last bit."""
    runs, columns = {}, {}
    for name, poison in (
        ("skipped", Poison(tmp_path / "skipped", POISON | HUGE)),
        ("not taken", Poison(tmp_path / "not taken", HUGE, leave_out=frozenset(POISON))),
    ):
        recipe = _recipe(tmp_path / name, tiny_bert_dir, small_topics, case, non_finite="skip")
        poisoned(recipe, tmp_path / name, poison)
        runs[name] = recipe, [poison.read(rank) for rank in (0, 1)]
        columns[name] = [records(run_folder(recipe), key) for key in ("train/loss", "grad_norm")]
    for skipped, not_taken in zip(columns["skipped"], columns["not taken"], strict=True):
        assert skipped == not_taken | dict.fromkeys(POISON)
        assert len(skipped) == SIZES["max_steps"]

    recipe, noted = runs["skipped"]
    same = noted[0][8]["after"] == noted[1][8]["after"]
    assert same == (case[0] == "zero0")  # above, each rank looks at shards of its own
    for steps in noted:
        causes = {step: at["cause"] for step, at in steps.items() if at["skipped"]}
        assert causes == {3: "loss", 4: "gradient", 6: "loss"}
        for step, at in steps.items():
            assert (at["before"] == at["after"]) == (step in POISON)
            if step in POISON:
                assert at["sample_ids"] == at["window"]
                assert at["seen"] == {"1": _micro_batch(at["window"])}

    run_dir = run_folder(recipe)
    losses, norms = columns["skipped"]
    assert [step for step, loss in losses.items() if loss is None] == list(POISON)
    assert [step for step, norm in norms.items() if norm is None] == list(POISON)
    assert all(
        isinstance(losses[step], float) and math.isfinite(losses[step]) for step in (5, 7, 8)
    )
    assert losses[5] > 1e28  # huge is not infinite
    assert records(run_dir, "skipped_steps")[8] == 3
    warnings = events(run_dir, "warning")
    assert [(warning["step"], warning["cause"]) for warning in warnings] == [
        (3, "loss"),
        (4, "gradient"),
        (6, "loss"),
    ]
    for warning in warnings:
        window = noted[0][warning["step"]]["window"]
        assert warning["sample_ids"] == window
        assert warning["seen_by"] == {"1": _micro_batch(window)}
        assert f"on rank 1 (sample ids {_micro_batch(window)})" in warning["message"]


@pytest.mark.parametrize(
    ("case", "kind", "what"),
    [
        (("zero2", "float32", "full"), "nan loss", "the loss is nan"),
        (("zero0", "float32", "full"), "infinite gradient", "the gradient is not finite"),
        (("zero1", "bfloat16", "full"), "infinite gradient", "the gradient is not finite"),
        (("zero3", "bfloat16", "lora"), "infinite loss", "the loss is inf"),
    ],
)
def test_stop_names_step_rank_and_rows_and_keeps_the_checkpoint_before(
    case: tuple[str, str, str],
    kind: Kind,
    what: str,
    tmp_path: Path,
    tiny_bert_dir: Path,
    small_topics: Path,
) -> None:
    recipe = _recipe(tmp_path, tiny_bert_dir, small_topics, case)
    recipe["checkpoint"] = {"every_steps": 1}
    poison = Poison(tmp_path / "notes", {3: kind})
    with pytest.raises(RanksFailed) as failure:
        poisoned(recipe, tmp_path, poison)
    at = poison.read(0)[3]
    assert at["before"] == at["after"]
    assert at["before"] == poison.read(0)[2]["after"]
    said = (
        f"NonFiniteError: step 3: {what} on rank 1 (sample ids {_micro_batch(at['window'])});"
        f" sample ids of the step: {at['window']}. No update was made"
    )
    assert str(failure.value).count(said) == 2
    run_dir = run_folder(recipe)
    assert sorted(records(run_dir, "train/loss")) == [1, 2]
    assert newest_verified(run_dir).name == "step-000002"
    (failed,) = events(run_dir, "failure")
    assert (failed["error"], "step 3" in failed["message"]) == ("NonFiniteError", True)


def test_a_gradient_that_is_bad_in_one_tensor_only_is_found_too(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    """No single rank is named then: before the reduction, one small tensor is all that is seen."""
    case = ("zero2", "bfloat16", "full")
    recipe = _recipe(tmp_path, tiny_bert_dir, small_topics, case, non_finite="skip")
    poison = Poison(tmp_path / "notes", {1: "one infinite tensor", 4: "one infinite tensor"})
    poisoned(recipe, tmp_path, poison)
    steps = poison.read(1)
    assert [step for step, at in steps.items() if at["skipped"]] == [1, 4]
    assert all(steps[step]["before"] == steps[step]["after"] for step in (1, 4))
    assert [warning["seen_by"] for warning in events(run_folder(recipe), "warning")] == [{}, {}]


def test_skipping_is_bounded(tmp_path: Path, tiny_bert_dir: Path, small_topics: Path) -> None:
    """Two in a row may be skipped; a good step in between starts the count anew."""
    case = ("zero2", "float32", "full")
    recipe = _recipe(
        tmp_path, tiny_bert_dir, small_topics, case, non_finite="skip", max_skipped_steps=2
    )
    poison = Poison(tmp_path / "notes", dict.fromkeys((1, 2, 4, 5, 6), "nan loss"))
    with pytest.raises(RanksFailed) as failure:
        poisoned(recipe, tmp_path, poison)
    text = str(failure.value)
    assert text.count("NonFiniteError: step 6: the loss is nan on rank 1") == 2
    assert "skipped update 3 in a row, and train.max_skipped_steps is 2" in text
    run_dir = run_folder(recipe)
    lines = run_dir.metrics.read_text().splitlines()
    losses = {line["step"]: line["train/loss"] for line in map(json.loads, lines)}
    assert {step for step, loss in losses.items() if loss is None} == {1, 2, 4, 5}
    assert [warning["in_a_row"] for warning in events(run_dir, "warning")] == [1, 2, 1, 2, 3]


def _half_precision_on_the_cpu() -> None:
    """DeepSpeed calls it unsupported there, and it is: too slow for use, not for a few steps."""
    accelerator: Any = importlib.import_module("deepspeed.accelerator").get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    accelerator.supported_dtypes = lambda: [torch.float32, torch.bfloat16, torch.float16]


def _float16_recipe(
    folder: Path, model: Path, topics: Path, scale_power: int, **train_keys: Any
) -> dict[str, Any]:
    config = json.loads((shipped_folder("ds_configs") / "zero2.json").read_text())
    config["fp16"] |= {"initial_scale_power": scale_power, "hysteresis": 1}
    path = folder / "ds.json"
    path.write_text(json.dumps(config))
    return _recipe(folder, model, topics, (str(path), "float16", "full"), **train_keys)


def test_a_loss_scale_that_is_too_large_is_lowered_and_a_bad_loss_stops(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    """With float16, skipping is how the scale is found, so `stop` is not for these gradients."""
    recipe = _float16_recipe(tmp_path, tiny_bert_dir, small_topics, scale_power=21)
    poison = Poison(tmp_path / "notes", {8: "nan loss"})

    with pytest.raises(RanksFailed, match="NonFiniteError: step 8: the loss is nan on rank 1"):
        poisoned(recipe, tmp_path, poison, _half_precision_on_the_cpu)
    skipped = {step: at["cause"] for step, at in poison.read(0).items() if at["skipped"]}
    assert skipped.pop(8) == "loss"
    assert 1 <= len(skipped) <= 6
    assert set(skipped.values()) == {"gradient"}
    warnings = events(run_folder(recipe), "warning")
    assert ["the loss scale is lowered" in warning["message"] for warning in warnings] == [
        *(True for _ in skipped),
        False,
    ]


def test_a_loss_scale_at_its_least_does_not_hide_where_it_was(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    recipe = _float16_recipe(
        tmp_path, tiny_bert_dir, small_topics, scale_power=1, max_skipped_steps=4
    )
    poison = Poison(tmp_path / "notes", dict.fromkeys(range(2, 9), "infinite gradient"))

    with pytest.raises(RanksFailed, match="NonFiniteError: step 6: the gradient is not finite"):
        poisoned(recipe, tmp_path, poison, _half_precision_on_the_cpu)


def test_an_evaluation_that_is_not_finite_is_recorded_as_such_and_never_the_best(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    """Argmax of NaN gives classes, and so an accuracy; it must not count. Nor may a kill after it
    lose what came before, nor updates skipped since the last evaluation pass for a loss of 0."""
    case = ("zero2", "float32", "full")
    recipe = _recipe(tmp_path, tiny_bert_dir, small_topics, case, non_finite="skip")
    recipe["data"]["validation"] = [{"path": str(small_topics / "validation.jsonl")}]
    recipe["evaluate"] = {"every_steps": 2}
    recipe["checkpoint"] = {"every_steps": 2, "asynchronous": False}
    recipe["early_stopping"] = {"monitor": "validation/accuracy", "patience": 10}
    bad_steps: dict[int, Kind] = {5: "nan loss", 6: "nan loss"}
    poison = Poison(tmp_path / "notes", bad_steps, evaluations=frozenset({4}))
    poisoned(recipe, tmp_path, poison, kill_after=4)
    poisoned(recipe, tmp_path, poison)

    run_dir = run_folder(recipe)
    losses: dict[int, Any] = dict(records(run_dir, "validation/loss"))
    accuracies: dict[int, Any] = dict(records(run_dir, "validation/accuracy"))
    assert sorted(losses) == [0, 2, 4, 6, 8]
    assert [step for step, loss in losses.items() if loss == "NaN"] == [4]
    assert [step for step, accuracy in accuracies.items() if accuracy == "NaN"] == [4]
    assert 4 not in [event["step"] for event in events(run_dir, "evaluation_best")]
    assert run_dir.best.readlink().name != "step-000004"
    said = [event["message"] for event in events(run_dir, "warning") if event["step"] == 4]
    assert ["validation/loss is nan" in message for message in said] == [True]
    history = read_manifest(newest_verified(run_dir)).progress["stop"]["history"]
    assert [math.isnan(point["monitored"]) for point in history] == [False, True, False, False]
    assert [math.isnan(point["train_loss"]) for point in history] == [False, False, True, False]
    summary = json.loads(run_dir.summary.read_text())
    assert summary["first_evaluation"]["validation/loss"] == losses[0]
    assert summary["best"]["step"] == run_dir_step(run_dir.best.readlink())


def run_dir_step(folder: Path) -> int:
    """The step of a checkpoint folder."""
    return int(folder.name.removeprefix("step-"))


class EngineThatChecksNothing(StepObserver):
    """Lets DeepSpeed update with whatever gradients there are."""

    def before_step(self, session: Session, window: Window) -> None:
        engine: Any = session.engine
        engine.optimizer.check_grad_overflow = False


def test_an_engine_that_updates_all_the_same_is_found_out(
    tmp_path: Path, tiny_bert_dir: Path, small_topics: Path
) -> None:
    recipe = _recipe(
        tmp_path, tiny_bert_dir, small_topics, ("zero2", "bfloat16", "full"), non_finite="skip"
    )
    poison = Poison(tmp_path / "notes", {3: "nan loss"})
    with pytest.raises(RanksFailed) as failure:
        train(recipe, tmp_path, 2, sabotage=poison, observers=(poison, EngineThatChecksNothing()))
    assert str(failure.value).count("NonFiniteError: step 3: the loss is nan") == 2
    assert "the engine updated the weights all the same" in str(failure.value)
