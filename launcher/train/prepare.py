"""Prepares a recipe's data before any rank starts; ranks then only open what lies there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from launcher.data import report, store
from launcher.data.build import Limits, Split, count_rows, label_names, write_splits
from launcher.data.cache import TokenCache, tokens_digest
from launcher.data.labels import sorted_names
from launcher.data.read import find_parts
from launcher.data.rows import Part
from launcher.data.sampler import held_out
from launcher.data.show import print_report
from launcher.data.tokenizer import LoadedTokenizer, load_tokenizer
from launcher.errors import InputError, LauncherError, Problem, system_errors
from launcher.escape import for_terminal
from launcher.model.folder import model_folder
from launcher.model.remote_code import fetch_code
from launcher.recipe.consent import Consent
from launcher.recipe.prepared import Summary, mark_prepared, sources_state
from launcher.recipe.resolve import resolve
from launcher.recipe.run_settings import run_folder
from launcher.recipe.schema import Recipe
from launcher.tasks.registry import task_for
from launcher.train.inputs import collect_inputs, compare_with_checkpoint

Parts = dict[Split, list[Part]]


@dataclass(frozen=True)
class Prepared:
    """Everything a rank needs to know of the data."""

    train: TokenCache
    validation: TokenCache | None
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    """Class names in the order of their indices; empty for tasks without classes."""
    report: dict[str, Any]
    """What the data are, as JSON."""
    inputs: dict[str, str]
    """Digest of every file of rows, of the tokens and of the base model, by entry."""

    @property
    def pad_token_id(self) -> int:
        """What fills a batch; the tokenizer always has one by now."""
        return int(self.tokenizer.pad_token_id)


def prepare(recipe: Recipe) -> Prepared:
    """Fetch what has a hub name; open the prepared data, building them if they aren't there.

    Raises `InputError` for a model, sources, rows, labels or a tokenizer that can't be used.
    """
    trusted = recipe.model.trust_remote_code
    model_folder(recipe.model.path, recipe.model.revision, download=True, with_code=trusted)
    fetch_code(recipe.model)
    loaded, parts, key = _sources(recipe, download=True)
    cache_dir = Path(recipe.data.cache_dir)
    stored = store.find(cache_dir, key)
    replaced = None
    if stored is not None and stored.altered is not None:
        replaced, stored = stored.folder, None
    if stored is None:
        with store.new_folder(cache_dir, key) as folder:
            stored = store.commit(folder, _build(recipe, loaded, parts, folder))
    return _open(recipe, loaded, parts, stored, replaced)


def open_prepared(recipe: Recipe, *, verify: bool = True) -> Prepared:
    """Open what `prepare` built; raises `InputError` if it did not, or not from these data.

    `verify`: refuse what was changed since; enough on one rank.
    """
    loaded, parts, key = _sources(recipe, download=False)
    stored = store.find(Path(recipe.data.cache_dir), key)
    if stored is None:
        message = "these data with these settings are not prepared."
        place = str(Path(recipe.data.cache_dir) / key)
        raise InputError(Problem(place, "data", message, "Run `launcher prepare` first."))
    if verify and (altered := stored.altered) is not None:
        message = "the files were changed since they were written."
        cure = "Run `launcher prepare`, which writes them anew."
        raise InputError(Problem(str(stored.folder / altered), "data", message, cure))
    return _open(recipe, loaded, parts, stored)


def _sources(recipe: Recipe, *, download: bool) -> tuple[LoadedTokenizer, Parts, str]:
    data, cache_dir = recipe.data, Path(recipe.data.cache_dir)
    loaded = load_tokenizer(recipe.model, download=download)
    parts: Parts = {"train": find_parts(data.train, data.columns, "data.train", cache_dir)}
    if data.validation:
        parts["validation"] = find_parts(
            data.validation, data.columns, "data.validation", cache_dir
        )
    settings = {
        "parts": {
            # the name's end decides how the bytes are read
            name: [[Path(part.name).suffixes[-2:], part.digest()] for part in its_parts]
            for name, its_parts in parts.items()
        },
        "tokenizer": loaded.digest,
        "columns": data.columns.model_dump(),
        "max_seq_len": data.max_seq_len,
        "overlong": data.overlong,
        "bad_rows": data.bad_rows,
        "task": recipe.model.task,
        "labels": recipe.model.labels,
        "held_out": [data.validation_fraction, recipe.run.seed]
        if data.validation_fraction
        else None,
    }
    return loaded, parts, store.key_of(settings)


def _build(recipe: Recipe, loaded: LoadedTokenizer, parts: Parts, folder: Path) -> dict[str, Any]:
    tokenizer = loaded.tokenizer
    labels = _labels(recipe, parts["train"])
    control_ids = frozenset(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)
    counts, writers = write_splits(
        folder,
        dict(parts),
        _held_out(recipe, parts["train"]),
        task_for(recipe.model.task).encoder(recipe, tokenizer, labels),
        Limits(recipe.data.max_seq_len, recipe.data.overlong, recipe.data.bad_rows),
        control_ids,
    )
    caches = {name: TokenCache(folder / name) for name in counts}
    repeated = report.duplicates(writers)
    return {
        "labels": labels,
        "digests": {name: tokens_digest(folder / name) for name in caches},
        "report": {
            "task": recipe.model.task,
            **{name: report.split_report(caches[name], counts[name], labels) for name in caches},
            **repeated,
            "warnings": report.warnings(counts, repeated, len(caches["train"])),
            "sample": report.decoded_sample(caches["train"], tokenizer, labels),
        },
    }


def _labels(recipe: Recipe, parts: list[Part]) -> tuple[str, ...]:
    if recipe.model.task != "sequence-classification":
        return ()
    given = recipe.model.labels
    labels = given or sorted_names(label_names(parts, recipe.data.columns.label))
    if len(set(labels)) < max(2, len(labels)):
        key = "model.labels" if given else "data.columns.label"
        place = "recipe" if given else ", ".join(part.name for part in parts)
        message = f"the classes are {', '.join(labels) or 'none'}; need at least 2, all different."
        raise InputError(Problem(place, key, message))
    return labels


def _held_out(recipe: Recipe, parts: list[Part]) -> list[int]:
    fraction = recipe.data.validation_fraction
    if fraction is None:
        return []
    num_rows = count_rows(parts)
    if num_rows == 1:
        place = ", ".join(part.name for part in parts)
        message = "1 row can't be split into training and validation."
        raise InputError(Problem(place, "data.validation_fraction", message))
    rows: list[int] = held_out(num_rows, fraction, recipe.run.seed).tolist()
    return rows


def _open(
    recipe: Recipe,
    loaded: LoadedTokenizer,
    parts: Parts,
    stored: store.Stored,
    replaced: Path | None = None,
) -> Prepared:
    train = TokenCache(stored.folder / "train")
    has_validation = (stored.folder / "validation").is_dir()
    found = dict(stored.meta["report"])
    found["notes"] = list(loaded.notes)
    if replaced is not None:  # no note: those are told at every launch
        found["replaced"] = f"{replaced} was changed since it was written: prepared anew"
    found["cache"] = str(stored.folder)
    if len(train) < recipe.train.global_batch_size:
        few = (
            f"{len(train)} training rows are fewer than train.global_batch_size "
            f"{recipe.train.global_batch_size}: every step is one whole epoch."
        )
        found["warnings"] = [*found["warnings"], few]
    return Prepared(
        train=train,
        validation=TokenCache(stored.folder / "validation") if has_validation else None,
        tokenizer=loaded.tokenizer,
        labels=tuple(stored.meta["labels"]),
        report=found,
        inputs=collect_inputs(
            chain.from_iterable(parts.values()), stored.meta["digests"], recipe.model
        ),
    )


def _summary(found: dict[str, Any]) -> Summary:
    splits = [name for name in ("train", "validation") if name in found]
    return Summary(
        {name: (found[name]["used"], found[name]["tokens"]) for name in splits},
        tuple(found["notes"]),
        tuple(found["warnings"]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the data of a recipe, print the report and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m launcher.train.prepare")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--processes", type=int, help="Ranks of the launch.")
    Consent.add_to(parser)
    parsed = parser.parse_args(arguments)
    try:
        with system_errors():
            resolved = resolve(
                parsed.recipe, parsed.overrides, parsed.processes, consent=Consent.of(parsed)
            )
            sources = sources_state(resolved)
            prepared = prepare(resolved.recipe_of_data)
            compare_with_checkpoint(run_folder(resolved), prepared.inputs, resolved.allowed_changes)
            # Launches and nodes see by it, without reading any data, that theirs are there.
            folder, summary = Path(prepared.report["cache"]), _summary(prepared.report)
            mark_prepared(resolved, folder, sources, prepared.inputs, summary)
    except LauncherError as error:
        sys.stderr.write(f"{for_terminal(str(error))}\n")
        return error.exit_code
    print_report(prepared.report, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
