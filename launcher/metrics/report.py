"""One HTML page of a run that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from launcher.errors import InputError, Problem
from launcher.files.read import Record
from launcher.files.write import ensure_folder, replace_text
from launcher.metrics import report_facts as facts
from launcher.metrics.report_attempts import attempts_section
from launcher.metrics.report_charts import charts
from launcher.metrics.report_read import RunRecords, read_run
from launcher.run_dir import RunDir

TEMPLATE = "report.html.j2"
MANY_LABELS = 40
NONE = "\N{EN DASH}"
LENGTHS = ("p50", "p90", "p99", "max")


def build_report(run_dir: RunDir) -> Path:
    """Write `report.html` of a run, finished or not, and return its path.

    Every part of the run folder may be missing; a folder that doesn't exist is made.

    Raises:
        InputError: it can't be written.
    """
    page = render(read_run(run_dir))
    try:
        ensure_folder(run_dir.root)
        replace_text(run_dir.report, page)  # a browser that reloads never sees half a page
    except OSError as error:
        raise InputError(Problem(str(run_dir.report), "", f"{error.strerror}.")) from None
    return run_dir.report


def render(records: RunRecords) -> str:
    """Return the page. Everything that users or data wrote is escaped, in HTML and in JSON."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    shown = charts(records)
    return environment.get_template(TEMPLATE).render(
        name=str(records.setting("run", "name") or records.name),
        outcome=facts.outcome(records),
        failure=facts.failure(records),
        subtitle=facts.subtitle(records),
        tiles=facts.tiles(records),
        notes=facts.notes(records),
        charts=list(zip(shown, spans(len(shown) - 1), strict=True)) if shown else [],
        figures={chart.key: chart.figure for chart in shown},
        data=data_section(records.data),
        attempts=attempts_section(records.attempts),
        events=facts.event_rows(records),
        recipe=records.recipe_text,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plotly=get_plotlyjs(),
        nonce=secrets.token_urlsafe(16),  # only our own scripts run, whatever the data hold
    )


def spans(num_small: int) -> list[int]:
    """Return how many of six columns each chart takes: the first all, the others 2 or 3 a row.

    Rows of two come first and there are as few as leave no hole.
    """
    pairs = min(-num_small % 3, num_small // 2)
    narrow = num_small - 2 * pairs
    return [6, *[3] * (2 * pairs), *([2] * narrow if narrow % 3 == 0 else [6] * narrow)]


def data_section(report: Record) -> dict[str, Any]:
    """Return the tables of the data report; empty where there is none."""
    splits = [name for name in ("train", "validation") if report.record(name)]
    labels = report.record(splits[0]).record("labels").integers if splits else {}
    by_count = sorted(labels.items(), key=lambda label: -label[1])
    most = max(labels.values(), default=0)
    return {
        "splits": [_split(name, report.record(name)) for name in splits],
        "labels": [
            {"name": label, "count": f"{number:,}", "percent": round(100 * number / most, 1)}
            for label, number in by_count[:MANY_LABELS]
            if most > 0
        ],
        "more_labels": max(0, len(labels) - MANY_LABELS),
        "warnings": [*report.texts("warnings"), *report.texts("notes")],
        "sample": _sample(report.record("sample")),
    }


def _split(name: str, split: Record) -> dict[str, Any]:
    share, lengths = split.number("supervised_share"), split.record("lengths").integers
    dropped = sum(split.record("dropped").integers.values())
    rows, used, truncated, tokens = (
        split.integer(key) or 0 for key in ("rows", "used", "truncated", "tokens")
    )
    return {
        "name": name,
        "counts": [
            *(f"{count:,}" for count in (rows, used, dropped, truncated, tokens)),
            NONE if share is None else f"{share:.0%}",
            *(f"{lengths[key]:,}" if key in lengths else NONE for key in LENGTHS),
        ],
    }


def _sample(sample: Record) -> dict[str, Any]:
    """Return the pieces of the first row, and its label if it has one; empty without pieces."""
    pieces = [
        {"text": piece.text("text") or "", "supervised": piece.get("supervised") is True}
        for piece in sample.records("pieces")
    ]
    if not pieces:
        return {}
    label = sample.text("label")
    return {"pieces": pieces, "tokens": sample.integer("tokens") or 0} | (
        {} if label is None else {"label": label}
    )
