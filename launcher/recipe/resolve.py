"""Joins recipe, DeepSpeed config and geometry into the one description of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from launcher.errors import InputError, Problem
from launcher.recipe.batch import BATCH_KEYS, BatchPlan, plan_batch
from launcher.recipe.changes import CARRIERS, Change
from launcher.recipe.check import Facts, KeyedRule, check_recipe, warn_recipe
from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.deepspeed_check import check_deepspeed
from launcher.recipe.deepspeed_conflicts import conflicts
from launcher.recipe.deepspeed_fill import complete
from launcher.recipe.deepspeed_json import parse_deepspeed
from launcher.recipe.defaults import fill_defaults, world_size
from launcher.recipe.dump import to_yaml
from launcher.recipe.extends import display
from launcher.recipe.finding import Finding, Place, nearest_place
from launcher.recipe.load import draft_recipe
from launcher.recipe.model_folder import ModelFacts, read_model_facts
from launcher.recipe.named_files import NamedFile, read_named_files
from launcher.recipe.remote_code import check_remote_code
from launcher.recipe.run_folder import Launch, look_at_run_folder
from launcher.recipe.schema import Recipe
from launcher.recipe.secrets import find_secrets, without
from launcher.recipe.tree import Node
from launcher.run_dir import CHAT_TEMPLATE, DEEPSPEED

T = TypeVar("T")


@dataclass(frozen=True)
class ResolvedRun:
    """A run with nothing left open: what trains, how it is split, what DeepSpeed gets."""

    recipe: Recipe
    """Every value is filled that doesn't need the size of the data."""
    source: Path
    origins: Mapping[str, str]
    """Dotted key -> `recipe.yaml:12` or `--set key=value`; what is absent is a default."""
    world_size: int
    batch: BatchPlan
    deepspeed: dict[str, Any]
    """Complete: no "auto", no optimizer, no scheduler."""
    zero_stage: int
    model: ModelFacts | None
    """None where the model is a hub name."""
    files: Mapping[str, NamedFile]
    """The files that the recipe names, by recipe key; the run folder gets copies."""
    warnings: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    """What differs from how the run in the folder was begun, each allowed by name."""
    consent: Consent = NO_CONSENT
    """What the command line allowed; processes that are started need it too."""

    @property
    def allowed_changes(self) -> tuple[str, ...]:
        """Recipe keys (sections too) that may differ from the run that is resumed."""
        return self.consent.allow_change

    @property
    def recipe_of_data(self) -> Recipe:
        """The recipe that data are prepared by: its chat template is the file that was read."""
        template = self.files.get(CHAT_TEMPLATE)
        if template is None:
            return self.recipe
        model = self.recipe.model.model_copy(update={"chat_template": str(template.path)})
        return self.recipe.model_copy(update={"model": model})

    def to_yaml(self) -> str:
        """Return the recipe with every key explicit and the origin of each as a comment."""
        return to_yaml(self.recipe, self.origins)

    @property
    def digest(self) -> str:
        """SHA-256 of what makes the run what it is, whatever carries it and wherever it lies."""
        data = self.recipe.model_dump(mode="json", exclude=CARRIERS)
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def resolve(
    path: Path | str,
    overrides: Sequence[str] = (),
    processes: int | None = None,
    *,
    gpus_here: int = 0,
    fresh: bool = False,
    consent: Consent = NO_CONSENT,
    rules: Sequence[KeyedRule] = (),
) -> ResolvedRun:
    """Read a recipe and everything that it names; return the run that they describe.

    `processes` is the number of ranks that will carry it; by default nodes x GPUs per node (those
    of this machine, `gpus_here`, where the recipe names none), or the CPU ranks that the recipe
    asks for. `fresh`: the run will get a new folder, so what lies in the recipe's own plays no
    part. `consent`: what the command line allows beyond the recipe. `rules` are checked too, such
    as those that only hold for a run that starts now. Raises one `InputError` with every problem
    found.
    """
    draft = draft_recipe(Path(path), overrides)
    if draft.loaded is None:
        raise InputError(draft.problems)
    loaded = draft.loaded
    recipe = fill_defaults(loaded.recipe)
    ranks = world_size(recipe, processes, gpus_here)
    place = loaded.place

    facts, found = _attempt("model.path", partial(read_model_facts, recipe.model.path, place))
    found += check_recipe(Facts(recipe, place, facts, ranks), rules)
    found += check_remote_code(
        recipe.model, place, is_folder=facts is not None, allowed=consent.trust_remote_code
    )
    batch = plan_batch(recipe.train, ranks, place)
    if isinstance(batch, Problem):
        found += [(BATCH_KEYS, batch)]
    files, unreadable = read_named_files(recipe, loaded.source, place)
    found += unreadable
    root, broken = _attempt(DEEPSPEED, partial(_config_of, files.get(DEEPSPEED)))
    found += broken
    config_problems = _check_config(root, recipe, batch, place) if root else []
    found += config_problems
    folder = look_at_run_folder(Launch(recipe, loaded.source, place, facts, consent, fresh))
    found += folder.findings
    problems = [*draft.problems, *(p for keys, p in found if draft.has(keys))]
    if problems:
        raise InputError(problems)

    assert root is not None
    assert isinstance(batch, BatchPlan)
    config = complete(root.plain(), recipe, batch, facts.hidden_size if facts else None)
    return ResolvedRun(
        recipe=recipe,
        source=loaded.source,
        origins=loaded.origins,
        world_size=ranks,
        batch=batch,
        deepspeed=config,
        zero_stage=config["zero_optimization"]["stage"],
        model=facts,
        files=files,
        warnings=(*warn_recipe(recipe, place), *_told(folder.changes, place)),
        changes=folder.changes,
        consent=consent,
    )


def _told(changes: Sequence[Change], place: Place) -> list[Problem]:
    """Return a warning for each change that was allowed."""
    return [
        Problem(
            nearest_place(place, change.key),
            "",
            f"{change} from the next step on; what was trained before is not trained again.",
        )
        for change in changes
    ]


def _attempt(key: str, action: Callable[[], T]) -> tuple[T | None, list[Finding]]:
    """Return what `action` returns, or what was wrong with the recipe key it reads."""
    try:
        return action(), []
    except InputError as error:
        return None, [((key,), problem) for problem in error.problems]


def _config_of(file: NamedFile | None) -> Node | None:
    return parse_deepspeed(file.data, display(file.path)) if file else None


def _check_config(
    root: Node, recipe: Recipe, batch: BatchPlan | Problem, place: Place
) -> list[Finding]:
    """Return the problems of the DeepSpeed config, alone and against the recipe."""
    secrets = find_secrets(root)
    alone = [problem for _, problem in secrets]
    alone += check_deepspeed(without(root, [path for path, _ in secrets]), recipe.cluster.num_nodes)
    broken = {problem.key for problem in alone}
    plan = batch if isinstance(batch, BatchPlan) else None
    joint = conflicts(root, recipe, plan, place)
    return [((), problem) for problem in alone] + [
        (keys, problem) for keys, problem in joint if problem.key not in broken
    ]
