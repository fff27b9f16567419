"""Real training runs on forked ranks, with what happened inside each rank brought back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from launcher.run_dir import RunDir
from tests.support.ranks import run_ranks


@dataclass
class RankReport:
    """What one rank saw of a run."""

    rank: int
    world_size: int
    engine: str
    zero_stage: int
    partitioned: bool
    """Every parameter was split over the ranks right after the model was loaded."""
    step: int
    sample_ids: list[list[int]] = field(default_factory=list)
    """Of the whole window, by optimizer step."""
    learning_rates: list[float] = field(default_factory=list)
    """What the engine's own parameter groups held at each update."""
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    """Whole gradients at the first update, by parameter name."""


def write_recipe(folder: Path, recipe: dict[str, Any]) -> Path:
    """Write a recipe as YAML and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    with path.open("w") as file:
        YAML().dump(recipe, file)
    return path


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_folder(recipe: dict[str, Any]) -> RunDir:
    """Return the run folder of a recipe."""
    return RunDir(Path(recipe["run"]["dir"]) / recipe["run"]["name"])


def records(run_dir: RunDir, key: str) -> dict[int, float]:
    """Return one column of metrics.jsonl by step."""
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def events(run_dir: RunDir, kind: str) -> list[dict[str, Any]]:
    """Return the events of one kind."""
    lines = [json.loads(line) for line in run_dir.events.read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def train(
    recipe: dict[str, Any],
    folder: Path,
    world_size: int,
    *,
    kill_after: int | None = None,
    keep_gradients: bool = False,
    sabotage: Callable[[], None] | None = None,
) -> list[RankReport]:
    """Prepare and train a recipe on forked ranks.

    `kill_after`: all ranks end in the wake of that step by `os._exit`, as abruptly as a kill, and
    what they saw until then is returned. `sabotage` is called in each rank before it trains.
    """
    path = write_recipe(folder, recipe)
    prepare(path)
    reports: list[RankReport] = run_ranks(
        world_size, _train, path, kill_after, keep_gradients, sabotage
    )

    assert [report.rank for report in reports] == list(range(world_size))
    assert {report.world_size for report in reports} == {world_size}
    assert {report.engine for report in reports} == {"DeepSpeedEngine"}
    return reports


def prepare(path: Path) -> None:
    """Prepare the data of a recipe, in a process of its own."""
    run_ranks(1, _prepare, path)


def _prepare(path: Path) -> None:
    from launcher.recipe.resolve import resolve
    from launcher.train.prepare import prepare

    prepare(resolve(path).recipe_of_data)


class _Killed(BaseException):
    """Ends a rank where a kill would."""


def _train(
    path: Path,
    kill_after: int | None,
    keep_gradients: bool,
    sabotage: Callable[[], None] | None,
) -> RankReport:
    torch.set_num_threads(1)
    from launcher.recipe.resolve import resolve
    from launcher.train import loop, run, setup
    from launcher.world import World

    world = World.from_environment()
    report = RankReport(world.rank, 0, "", -1, False, 0)
    _watch_model(setup, report)
    _watch_steps(loop, report, kill_after, keep_gradients)
    if sabotage is not None:
        sabotage()
    try:
        run.run_rank(resolve(path, processes=world.world_size), world)
    except _Killed:
        return report
    return report


def _watch_model(setup: Any, report: RankReport) -> None:
    load_model = setup.load_model

    def load_and_look(*args: Any, **kwargs: Any) -> Any:
        loaded = load_model(*args, **kwargs)
        parameters = list(loaded.model.parameters())
        report.partitioned = all(
            hasattr(p, "ds_id") and p.numel() == 0 and p.ds_tensor.numel() < p.ds_numel
            for p in parameters
            if not hasattr(p, "ds_numel") or p.ds_numel > 1
        )
        return loaded

    setup.load_model = load_and_look


def _watch_steps(
    loop: Any, report: RankReport, kill_after: int | None, keep_gradients: bool
) -> None:
    from launcher.train import step as step_module

    train_step, update = loop.train_step, step_module._update

    def update_and_look(session: Any) -> Any:
        if keep_gradients and not report.gradients:
            report.gradients = _whole_gradients(session.engine)
        return update(session)

    def step_and_look(session: Any, window: Any) -> Any:
        import torch.distributed as dist

        report.world_size = dist.get_world_size()
        report.engine = type(session.engine).__name__
        report.zero_stage = session.engine.zero_optimization_stage()
        if kill_after is not None and window.step >= kill_after:
            raise _Killed
        report.sample_ids.append(window.sample_ids.tolist())
        report.learning_rates.append(session.engine.optimizer.param_groups[0]["lr"])
        report.step = window.step + 1
        return train_step(session, window)

    step_module._update = update_and_look
    loop.train_step = step_and_look


def _whole_gradients(engine: Any) -> dict[str, torch.Tensor]:
    from deepspeed.utils import safe_get_full_grad

    gradients = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            whole = parameter.grad if engine.zero_optimization_stage() == 0 else None
            whole = safe_get_full_grad(parameter) if whole is None else whole
            gradients[name] = whole.detach().float().cpu().clone()
    return gradients


def base_recipe(
    folder: Path, model: Path, task: str, rows: Path, /, **sections: Any
) -> dict[str, Any]:
    """Return a small recipe; `sections` are merged into it key by key."""
    recipe: dict[str, Any] = {
        "run": {"name": "test", "seed": 7, "dir": str(folder / "runs")},
        "model": {"path": str(model), "task": task, "dtype": "float32"},
        "method": {"type": "full"},
        "data": {
            "train": [{"path": str(rows)}],
            "max_seq_len": 64,
            "cache_dir": str(folder / "cache"),
        },
        "train": {
            "max_steps": 4,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "learning_rate": 1.0e-4,
        },
        "deepspeed": "zero2",
    }
    for name, values in sections.items():
        replace = name == "method" or not isinstance(values, dict)
        recipe[name] = values if replace else {**recipe.get(name, {}), **values}
    return recipe


def copy_model(source: Path, target: Path, **config: Any) -> Path:
    """Copy a model folder with some keys of its config changed (no dropout, say)."""
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
