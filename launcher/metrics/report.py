"""One HTML page of a run that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from launcher.metrics import report_facts as facts
from launcher.metrics.report_attempts import attempts_section
from launcher.metrics.report_charts import charts
from launcher.metrics.report_read import RunRecords, read_run
from launcher.run_dir import RunDir

TEMPLATE = "report.html.j2"
MANY_LABELS = 40
NONE = "\N{EN DASH}"


def build_report(run_dir: RunDir) -> Path:
    """Write `report.html` of a run, finished or not, and return its path.

    Every part of the run folder may be missing; a folder that doesn't exist is made.
    """
    page = render(read_run(run_dir))
    run_dir.root.mkdir(parents=True, exist_ok=True)
    temporary = run_dir.report.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(run_dir.report)  # a browser that reloads never sees half a page
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


def data_section(report: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of the data report; empty where there is none."""
    splits = [name for name in ("train", "validation") if isinstance(report.get(name), dict)]
    labels: dict[str, int] = report[splits[0]].get("labels", {}) if splits else {}
    by_count = sorted(labels.items(), key=lambda label: -label[1])
    most = max(labels.values(), default=0)
    return {
        "splits": [_split(name, report[name]) for name in splits],
        "labels": [
            {"name": label, "count": f"{number:,}", "percent": round(100 * number / most, 1)}
            for label, number in by_count[:MANY_LABELS]
            if most
        ],
        "more_labels": max(0, len(labels) - MANY_LABELS),
        "warnings": [*report.get("warnings", []), *report.get("notes", [])],
        "sample": report.get("sample") or {},
    }


def _split(name: str, split: dict[str, Any]) -> dict[str, Any]:
    lengths = split.get("lengths", {})
    share = split.get("supervised_share")
    return {
        "name": name,
        "counts": [
            f"{split.get('rows', 0):,}",
            f"{split.get('used', 0):,}",
            f"{sum(split.get('dropped', {}).values()):,}",
            f"{split.get('truncated', 0):,}",
            f"{split.get('tokens', 0):,}",
            NONE if share is None else f"{share:.0%}",
            *(f"{lengths[key]:,}" if key in lengths else NONE for key in ("p50", "p90", "p99")),
            f"{lengths['max']:,}" if "max" in lengths else NONE,
        ],
    }
