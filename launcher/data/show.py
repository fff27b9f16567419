"""Prints the data report where a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.escape import for_terminal

MANY_LABELS = 30


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print counts, lengths, classes, warnings and a sample; what has loss stands in brackets."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "rows", "used", "dropped", "cut", "tokens", "with loss", "p50", "p99", "max"):
        table.add_column(name, justify="right" if name else "left")
    splits = [name for name in ("train", "validation") if name in report]
    for name in splits:
        table.add_row(name, *_cells(report[name]))
    console.print(table)
    if "labels" in report["train"]:
        console.print(_labels(report["train"]["labels"]), soft_wrap=True)
    for note in (*report["notes"], *([report["replaced"]] if "replaced" in report else [])):
        console.print(Text(for_terminal(f"note: {note}")), soft_wrap=True)
    for warning in report["warnings"]:
        console.print(Text(for_terminal(f"warning: {warning}"), style="yellow"), soft_wrap=True)
    console.print(_sample(report["sample"]), soft_wrap=True)
    console.print(Text(f"prepared in {report['cache']}", style="dim"), soft_wrap=True)


def _cells(split: Mapping[str, Any]) -> list[str]:
    lengths = split["lengths"]
    share = f"{split['supervised_share']:.0%}" if "supervised_share" in split else "-"
    counts = (split["rows"], split["used"], sum(split["dropped"].values()), split["truncated"])
    return [
        *(f"{count:,}" for count in counts),
        f"{split['tokens']:,}",
        share,
        *(f"{lengths[name]:,}" for name in ("p50", "p99", "max")),
    ]


def _labels(counts: Mapping[str, int]) -> Text:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:MANY_LABELS]]
    more = f", and {len(counts) - MANY_LABELS} more" if len(counts) > MANY_LABELS else ""
    return Text(for_terminal(f"classes: {', '.join(shown)}{more}"))


def _sample(sample: Mapping[str, Any]) -> Text:
    text = Text("first row: ", style="bold")
    for piece in sample["pieces"]:
        said = for_terminal(piece["text"])
        shown = f"⟦{said}⟧" if piece["supervised"] else said
        text.append(shown, style="not bold green" if piece["supervised"] else "not bold")
    if "label" in sample:
        text.append(for_terminal(f"  -> {sample['label']}"), style="not bold green")
    return text
