"""Real training runs on forked ranks, with what happened inside each rank brought back."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from launcher.run_dir import RunDir
from launcher.train.step_observer import StepObserver
from tests.support.ranks import run_ranks

if TYPE_CHECKING:
    from launcher.data.sampler import Window
    from launcher.train.session import Session


@dataclass
class RankReport:
    """What one rank saw of a run."""

    rank: int
    world_size: int = 0
    engine: str = ""
    zero_stage: int = -1
    step: int = 0
    sample_ids: list[list[int]] = field(default_factory=list)
    """Of the whole window, by optimizer step."""
    learning_rates: list[float] = field(default_factory=list)
    """What the engine's own parameter groups held at each update."""


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
    sabotage: Callable[[], None] | None = None,
    observers: Sequence[StepObserver] = (),
) -> list[RankReport]:
    """Prepare and train a recipe on forked ranks.

    `kill_after`: all ranks end in the wake of that step by `os._exit`, as abruptly as a kill, and
    what they saw until then is returned. `sabotage` is called in each rank before it trains;
    `observers` look at each of its steps.
    """
    path = write_recipe(folder, recipe)
    prepare(path)
    reports: list[RankReport] = run_ranks(
        world_size, _train, path, kill_after, sabotage, tuple(observers)
    )

    assert [report.rank for report in reports] == list(range(world_size))
    assert {report.world_size for report in reports} == {world_size}
    assert {report.engine for report in reports} == {"DeepSpeedEngine"}
    return reports


class Runs:
    """Runs to the end that several tests look at, each trained once. Copy one to change it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._finished: dict[str, tuple[RunDir, list[RankReport]]] = {}

    def trained(
        self, recipe: dict[str, Any], world_size: int = 2
    ) -> tuple[RunDir, list[RankReport]]:
        """Train a recipe, unless that has been done; its own run folder and cache don't count."""
        data = {**recipe["data"], "cache_dir": str(self._folder / "cache")}
        recipe = {**recipe, "run": {**recipe["run"], "dir": ""}, "data": data}
        text = json.dumps([recipe, world_size], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key not in self._finished:
            folder = self._folder / key
            recipe["run"]["dir"] = str(folder / "runs")
            reports = train(recipe, folder, world_size)
            self._finished[key] = run_folder(recipe), reports
        return self._finished[key]


def prepare(path: Path) -> None:
    """Prepare the data of a recipe, in a process of its own."""
    run_ranks(1, _prepare, path)


def _prepare(path: Path) -> None:
    from launcher.recipe.resolve import resolve
    from launcher.train.prepare import prepare

    prepare(resolve(path).recipe_of_data)


class _Killed(BaseException):
    """Ends a rank where a kill would."""


@dataclass
class _Witness(StepObserver):
    """Notes what a rank does, and ends it where it is to be killed."""

    report: RankReport
    kill_after: int | None

    def before_step(self, session: Session, window: Window) -> None:
        import torch.distributed as dist

        report, engine = self.report, session.engine
        report.world_size = dist.get_world_size()
        report.engine = type(engine).__name__
        report.zero_stage = engine.zero_optimization_stage()
        if self.kill_after is not None and window.step >= self.kill_after:
            raise _Killed
        report.sample_ids.append(window.sample_ids.tolist())
        report.learning_rates.append(engine.optimizer.param_groups[0]["lr"])
        report.step = window.step + 1


def _train(
    path: Path,
    kill_after: int | None,
    sabotage: Callable[[], None] | None,
    observers: tuple[StepObserver, ...],
) -> RankReport:
    from launcher.recipe.resolve import resolve
    from launcher.train.run import run_rank
    from launcher.world import World

    world = World.from_environment()
    report = RankReport(world.rank)
    if sabotage is not None:
        sabotage()
    resolved = resolve(path, processes=world.world_size)
    try:
        run_rank(resolved, world, observers=(_Witness(report, kill_after), *observers))
    except _Killed:
        return report
    return report


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
