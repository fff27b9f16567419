"""Show what the quickstart learned, with plain transformers and the files of the run."""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the export is a folder; nothing is to be fetched
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from rich.console import Console
from rich.table import Table

NUM_EXAMPLES = 8


def main(run: Path) -> None:
    """Print metrics before and after, predictions on held-out sentences, and where things lie."""
    console = Console(highlight=False)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    recipe = read_recipe(run / "resolved.yaml")
    train = read_rows(recipe["data"]["train"][0]["path"])
    held_out = read_rows(recipe["data"]["validation"][0]["path"])
    texts, truth = [row["text"] for row in held_out], [row["label"] for row in held_out]
    majority = Counter(row["label"] for row in train).most_common(1)[0][0]
    predicted = predict(run / "export", texts)

    console.print(metrics_table(run, summary, majority, truth, predicted))
    console.print(examples_table(texts, truth, predicted))
    for what, where in (
        ("run folder", run),
        ("export", run / "export"),
        ("report", run / "report.html"),
    ):
        console.print(f"{what:<11}[bold]{where.resolve()}[/]", soft_wrap=True)


def metrics_table(
    run: Path, summary: dict[str, Any], majority: str, truth: list[str], predicted: list[str]
) -> Table:
    """Compare the first evaluation, the majority class, the best evaluation and the export."""
    evaluations = read_evaluations(run / "metrics.jsonl")
    table = Table(title=f"\n{len(truth)} held-out sentences, {len(set(truth))} topics")
    table.add_column()
    for name in ("loss", "accuracy", "macro F1"):
        table.add_column(name, justify="right")
    constant = [majority] * len(truth)
    best_step = summary["best"]["step"]
    table.add_row("before training", *recorded(evaluations[0]))
    table.add_row(f'always "{majority}"', "", *measured(truth, constant))
    table.add_row(f"after step {best_step}, the best", *recorded(evaluations[best_step]))
    table.add_row("its export, in plain transformers", "", *measured(truth, predicted))
    return table


def examples_table(texts: list[str], truth: list[str], predicted: list[str]) -> Table:
    """Show some held-out sentences, drawn by a fixed seed, not picked."""
    table = Table(title=f"\n{NUM_EXAMPLES} of them")
    table.add_column("sentence")
    table.add_column("predicted")
    table.add_column("truth")
    for index in random.Random(0).sample(range(len(texts)), NUM_EXAMPLES):
        style = "green" if predicted[index] == truth[index] else "red"
        table.add_row(texts[index], f"[{style}]{predicted[index]}[/]", truth[index])
    return table


def predict(export: Path, texts: list[str]) -> list[str]:
    """Classify with the exported folder as anyone would who never heard of this project."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    return [model.config.id2label[index] for index in logits.argmax(dim=-1).tolist()]


def recorded(metrics: dict[str, float]) -> list[str]:
    """Format what the run itself measured."""
    return [f"{metrics[f'validation/{name}']:.3f}" for name in ("loss", "accuracy", "f1")]


def measured(truth: list[str], predicted: list[str]) -> list[str]:
    """Accuracy and macro F1 over the classes that occur, computed here once more."""
    pairs = list(zip(truth, predicted, strict=True))
    scores = []
    for label in set(truth) | set(predicted):
        hits = pairs.count((label, label))
        scores.append(2 * hits / (truth.count(label) + predicted.count(label)))
    accuracy = sum(a == b for a, b in pairs) / len(pairs)
    return [f"{accuracy:.3f}", f"{sum(scores) / len(scores):.3f}"]


def read_evaluations(file: Path) -> dict[int, dict[str, float]]:
    """Return the evaluations of a run by step."""
    records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {record["step"]: record for record in records if "validation/loss" in record}


def read_rows(file: str) -> list[dict[str, str]]:
    """Read a JSONL file."""
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def read_recipe(file: Path) -> Any:
    """Read the resolved recipe of the run."""
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(file)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart"))
