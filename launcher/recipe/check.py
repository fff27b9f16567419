"""Rules between keys of a recipe: one small function each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from launcher.errors import Problem
from launcher.recipe.defaults import FORGETTING_RATE
from launcher.recipe.finding import Finding, Place, nearest_place
from launcher.recipe.model_folder import ModelFacts
from launcher.recipe.schema import LoraMethod, QloraMethod, Recipe
from launcher.recipe.schema_problems import did_you_mean
from launcher.recipe.steps import warmup_problem, warmup_steps
from launcher.recipe.tree import DEFAULT

MONITORS = {
    "causal-lm": ("validation/loss", "validation/perplexity", "validation/accuracy"),
    "sequence-classification": ("validation/loss", "validation/accuracy", "validation/f1"),
}
"""Metrics of each task that early stopping can watch."""


@dataclass(frozen=True)
class Facts:
    """What the rules look at: the recipe with its defaults filled, and where it was written."""

    recipe: Recipe
    place: Place
    model: ModelFacts | None
    world_size: int

    def problem(self, key: str, message: str, cure: str = "") -> Problem:
        """Return a problem at the place of `key`, or of the nearest section that was written."""
        return Problem(self.nearest_place(key), key, message, cure)

    def is_given(self, key: str) -> bool:
        """Tell whether the key was written and is not a default."""
        return self.place(key) != DEFAULT

    def nearest_place(self, key: str) -> str:
        """Return where a key, or else the section it is missing from, was written."""
        return nearest_place(self.place, key)


Rule = Callable[[Facts], Iterator[Problem]]
KeyedRule = tuple[tuple[str, ...], Rule]
"""A rule and the keys it reads: it is void where one of them is broken."""
_RULES: list[KeyedRule] = []


def _reads(*keys: str) -> Callable[[Rule], Rule]:
    """Register a rule with the keys it reads, so that it is silent while one of them is broken."""

    def register(rule: Rule) -> Rule:
        _RULES.append((keys, rule))
        return rule

    return register


def check_recipe(facts: Facts, rules: Sequence[KeyedRule] = ()) -> list[Finding]:
    """Return every broken rule of a recipe with its defaults filled; `rules` come on top."""
    return [(keys, problem) for keys, rule in (*_RULES, *rules) for problem in rule(facts)]


@_reads("train.num_epochs", "train.max_steps")
def _one_length(facts: Facts) -> Iterator[Problem]:
    train = facts.recipe.train
    if train.num_epochs is None and train.max_steps is None:
        yield facts.problem("train.num_epochs", "is missing; need num_epochs or max_steps.")
    if train.num_epochs is not None and train.max_steps is not None:
        message = (
            f"num_epochs {train.num_epochs:g} ({facts.place('train.num_epochs')}) and "
            f"max_steps {train.max_steps} both set the length."
        )
        yield facts.problem("train.max_steps", message, "Remove one (or set it to null).")


@_reads("train.warmup_steps", "train.warmup_ratio", "train.max_steps")
def _warmup(facts: Facts) -> Iterator[Problem]:
    train = facts.recipe.train
    if train.warmup_steps is not None and train.warmup_ratio is not None:
        steps, ratio = train.warmup_steps, train.warmup_ratio
        message = f"warmup_steps {steps} and warmup_ratio {ratio} are both given."
        yield facts.problem("train.warmup_ratio", message, "Remove one.")
    elif train.max_steps is not None:
        warmup = warmup_steps(train, train.max_steps)
        if warmup >= train.max_steps and warmup:
            yield warmup_problem(warmup, train.max_steps, facts.nearest_place("train.warmup_steps"))


@_reads("train.schedule", "train.decay_ratio", "train.warmup_ratio")
def _wsd_fits(facts: Facts) -> Iterator[Problem]:
    train = facts.recipe.train
    warmup = train.warmup_ratio or 0.0
    if train.schedule == "wsd" and warmup + train.decay_ratio > 1:
        message = f"warmup_ratio {warmup} + decay_ratio {train.decay_ratio} is more than 1."
        yield facts.problem("train.decay_ratio", message, "Together they are at most the run.")


@_reads("data.validation", "data.validation_fraction")
def _one_validation(facts: Facts) -> Iterator[Problem]:
    data = facts.recipe.data
    if data.validation and data.validation_fraction is not None:
        message = "data.validation is given too."
        yield facts.problem("data.validation_fraction", message, "Remove one of the two.")


@_reads("early_stopping", "data.validation", "data.validation_fraction")
def _stopping_needs_validation(facts: Facts) -> Iterator[Problem]:
    recipe = facts.recipe
    if recipe.early_stopping is not None and not has_validation(recipe):
        message = "needs validation rows: data.validation is missing."
        cure = "Give data.validation, or data.validation_fraction: 0.02."
        yield facts.problem("early_stopping", message, cure)


@_reads("early_stopping.monitor", "model.task")
def _monitor_exists(facts: Facts) -> Iterator[Problem]:
    recipe = facts.recipe
    if recipe.early_stopping is None:
        return
    monitor, known = recipe.early_stopping.monitor, MONITORS[recipe.model.task]
    if monitor not in known:
        message = f'got "{monitor}", need one of {", ".join(known)}.'
        yield facts.problem("early_stopping.monitor", message, did_you_mean(monitor, known))


@_reads("data.max_seq_len", "model.path")
def _sequence_fits(facts: Facts) -> Iterator[Problem]:
    longest = facts.model.max_positions if facts.model else None
    wanted = facts.recipe.data.max_seq_len
    if longest is not None and wanted > longest:
        said = f"{wanted}" if facts.is_given("data.max_seq_len") else f"{wanted} (default)"
        message = f"max_seq_len {said} is more than the model's max_position_embeddings {longest}."
        yield facts.problem("data.max_seq_len", message, f"Use at most {longest}.")


@_reads("export.merge", "method.type")
def _merge_needs_adapter(facts: Facts) -> Iterator[Problem]:
    recipe = facts.recipe
    if recipe.export.merge and not isinstance(recipe.method, LoraMethod):
        message = f"merge is for lora and qlora, and method.type is {recipe.method.type}."
        yield facts.problem("export.merge", message, "Remove it: nothing is left to merge.")


@_reads("method")
def _dora_fits_base(facts: Facts) -> Iterator[Problem]:
    method = facts.recipe.method
    if isinstance(method, QloraMethod) and method.dora and method.quantization == "int8":
        message = "dora does not work with quantization int8: it would lose the scales."
        yield facts.problem("method.dora", message, "Use nf4, or write dora: false.")


@_reads("cluster")
def _ranks_fill_nodes(facts: Facts) -> Iterator[Problem]:
    num_nodes = facts.recipe.cluster.num_nodes
    if facts.world_size % num_nodes:
        message = f"{facts.world_size} ranks don't divide evenly over {num_nodes} nodes."
        below = facts.world_size // num_nodes * num_nodes
        cure = f"Use {f'{below} or ' if below else ''}{below + num_nodes} ranks."
        yield facts.problem("cluster.num_nodes", message, cure)


@_reads("data.packing")
def _no_packing(facts: Facts) -> Iterator[Problem]:
    if facts.recipe.data.packing:
        yield facts.problem("data.packing", "packing is not available yet.", "Write false.")


@_reads("data.train", "data.validation")
def _no_mixtures(facts: Facts) -> Iterator[Problem]:
    data = facts.recipe.data
    for name, sources in (("train", data.train), ("validation", data.validation)):
        for index, source in enumerate(sources):
            if source.weight != 1.0:
                key = f"data.{name}.{index}.weight"
                message = f"weight {source.weight:g}: mixtures are not available yet."
                yield facts.problem(key, message, "Write 1.0: every row is used once an epoch.")


def has_validation(recipe: Recipe) -> bool:
    """Tell whether the run measures anything on rows it doesn't train on."""
    return bool(recipe.data.validation) or recipe.data.validation_fraction is not None


def warn_recipe(recipe: Recipe, place: Place) -> Iterator[Problem]:
    """Yield what is allowed and probably not meant."""
    facts = Facts(recipe, place, None, 1)
    rate = recipe.train.learning_rate or 0.0
    if recipe.method.type == "full" and rate > FORGETTING_RATE:
        message = f"learning_rate {rate:g} is far above 5e-5: risk of catastrophic forgetting."
        cure = "Full fine-tuning usually takes 1e-5 to 5e-5."
        yield facts.problem("train.learning_rate", message, cure)
    if not has_validation(recipe) and recipe.evaluate.every_steps is not None:
        message = "nothing is evaluated: there are no validation rows."
        yield facts.problem("evaluate.every_steps", message, "Give data.validation_fraction.")
    if recipe.train.schedule != "wsd" and facts.is_given("train.decay_ratio"):
        message = f"decay_ratio is for schedule wsd; {recipe.train.schedule} ignores it."
        yield facts.problem("train.decay_ratio", message)
