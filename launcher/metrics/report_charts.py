"""Which curves the report shows of a run, and what is marked in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from launcher.metrics.report_plot import (
    BEST,
    MUTED,
    OVERFITTING,
    SERIES,
    TRAINING,
    VALIDATION,
    Layout,
    Trace,
    anchor,
    base_layout,
    figure,
    line,
    short,
    smoothed,
)
from launcher.metrics.report_read import RunRecords, series, value_at

GIB = 2**30


@dataclass(frozen=True)
class Chart:
    """One figure of the page."""

    key: str
    title: str
    figure: dict[str, Any]


def charts(records: RunRecords) -> list[Chart]:
    """Return all curves that there is something to draw for."""
    found = [
        loss_chart(records),
        *metric_charts(records),
        gradient_chart(records),
        curve(records, "learning_rate", "Learning rate", "learning rate", exponent=True),
        curve(records, "tokens_per_second", "Throughput", "tokens / s, all ranks", from_zero=True),
        memory_chart(records),
    ]
    return [chart for chart in found if chart is not None]


def loss_chart(records: RunRecords) -> Chart | None:
    """Training and validation loss with the best step, overfitting and restarts marked."""
    steps, losses = series(records.train, "train/loss")
    if not steps and not records.evaluations:
        return None
    traces = smoothed(steps, losses, "training, ", TRAINING)
    validation_steps, validation = series(records.evaluations, "validation/loss")
    if validation_steps:
        traces.append(line(validation_steps, validation, "validation", VALIDATION, markers=True))
    layout = base_layout(records.last_step, "loss per target (nats)", height=430)
    mark_best(records, traces, layout)
    mark_overfitting(records, layout)
    mark_restarts(records, traces, layout)
    return Chart("loss", "Training and validation loss", figure(traces, layout))


def mark_best(records: RunRecords, traces: list[Trace], layout: Layout) -> None:
    """Ring the best step on the validation curve and write its value beside it."""
    step = best_step(records)
    loss = None if step is None else value_at(records.evaluations, step, "validation/loss")
    if step is None or loss is None:
        return
    traces.append(
        {
            "type": "scatter", "mode": "markers", "x": [step], "y": [short(loss)],
            "name": "best", "hoverinfo": "skip",
            "marker": {"size": 13, "color": "#ffffff", "line": {"width": 3, "color": BEST}},
        }
    )  # fmt: skip
    layout["annotations"].append(
        {
            "x": step, "y": short(loss), "text": escape(best_text(records, step, loss)),
            "xanchor": anchor(step / max(1, records.last_step)),
            "showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": BEST,
            "ax": 0, "ay": -46, "font": {"color": BEST, "size": 13}, "bgcolor": "#ffffff",
        }
    )  # fmt: skip


def mark_overfitting(records: RunRecords, layout: Layout) -> None:
    """Shade the steps from which validation loss rose while training loss fell."""
    since = overfitting_since(records)
    if since is None:
        return
    end = max(records.last_step, since)
    layout["shapes"].append(
        {
            "type": "rect", "xref": "x", "yref": "paper", "x0": since, "x1": end, "y0": 0, "y1": 1,
            "fillcolor": OVERFITTING, "opacity": 0.08, "line": {"width": 0}, "layer": "below",
        }
    )  # fmt: skip
    layout["annotations"].append(
        {
            "x": end, "y": 0.98, "xref": "x", "yref": "paper", "xanchor": "right", "yanchor": "top",
            "text": f"overfitting since step {since:,}", "showarrow": False,
            "font": {"color": OVERFITTING, "size": 13},
        }
    )  # fmt: skip


def mark_restarts(records: RunRecords, traces: list[Trace], layout: Layout) -> None:
    """Draw a dotted line where an attempt went on from a checkpoint; the legend names it once."""
    dotted = {"width": 1.2, "dash": "dot", "color": MUTED}
    for step in records.restart_steps:
        layout["shapes"].append(
            {
                "type": "line", "xref": "x", "yref": "paper", "x0": step, "x1": step,
                "y0": 0, "y1": 1, "line": dotted, "layer": "below",
            }
        )  # fmt: skip
    if records.restart_steps:
        traces.append(
            {"type": "scatter", "mode": "lines", "x": [None], "y": [None], "name": "restart",
             "line": dotted, "hoverinfo": "skip"}
        )  # fmt: skip


def metric_charts(records: RunRecords) -> list[Chart]:
    """Return one chart for all metrics that are shares (accuracy, F1), and one for each other."""
    keys = sorted({key for record in records.evaluations for key in record})
    known = ("step", "validation/loss", "validation/tokens")
    found = {key: series(records.evaluations, key) for key in keys if key not in known}
    found = {key: points for key, points in found.items() if points[0]}
    shares = {key for key, (_, values) in found.items() if all(0 <= value <= 1 for value in values)}
    result = []
    if shares:
        traces = [
            line(*found[key], _metric_name(key), SERIES[index % len(SERIES)], markers=True)
            for index, key in enumerate(sorted(shares))
        ]
        layout = base_layout(records.last_step, "share of validation rows")
        layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
        title = " and ".join(_metric_name(key) for key in sorted(shares))
        result.append(Chart("shares", _capital(title), figure(traces, layout)))
    for key in (key for key in found if key not in shares):
        name = _metric_name(key)
        layout = base_layout(records.last_step, name)
        traces = [line(*found[key], name, VALIDATION, markers=True)]
        result.append(Chart(f"metric-{len(result)}", _capital(name), figure(traces, layout)))
    return result


def curve(
    records: RunRecords,
    key: str,
    title: str,
    unit: str,
    *,
    exponent: bool = False,
    from_zero: bool = False,
) -> Chart | None:
    """Return one training metric as a plain curve."""
    steps, values = series(records.train, key)
    if not steps:
        return None
    layout = base_layout(records.last_step, unit)
    if exponent:
        layout["yaxis"] |= {"rangemode": "tozero", "exponentformat": "e", "hoverformat": ".3e"}
    if from_zero:
        layout["yaxis"] |= {"rangemode": "tozero", "hoverformat": ",.0f"}
    if exponent:
        traces = [line(steps, values, title.lower(), VALIDATION)]
    else:
        traces = smoothed(steps, values, "", VALIDATION)
    return Chart(key, title, figure(traces, layout))


def gradient_chart(records: RunRecords) -> Chart | None:
    """Return the gradient norm with the limit above which it was clipped."""
    chart = curve(records, "grad_norm", "Gradient norm", "L2 norm before clipping")
    limit = records.setting("train", "max_grad_norm")
    norms = [value for value in series(records.train, "grad_norm")[1] if math.isfinite(value)]
    if chart is None or not limit or not norms or not min(norms) / 2 <= limit <= max(norms) * 1.5:
        return chart
    layout = chart.figure["layout"]
    layout["yaxis"]["rangemode"] = "tozero"
    layout["shapes"].append(
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit,
            "line": {"width": 1.2, "dash": "dash", "color": OVERFITTING},
        }
    )  # fmt: skip
    layout["annotations"].append(
        {
            "xref": "paper", "x": 1, "y": limit, "xanchor": "right", "yanchor": "bottom",
            "text": f"clipped above {limit:g}", "showarrow": False,
            "font": {"color": OVERFITTING, "size": 12}, "bgcolor": "rgba(255,255,255,0.8)",
        }
    )  # fmt: skip
    return chart


def memory_chart(records: RunRecords) -> Chart | None:
    """Return the peak memory in GiB."""
    steps, values = series(records.train, "peak_memory_bytes")
    if not steps:
        return None
    layout = base_layout(records.last_step, "peak so far, GiB")
    layout["yaxis"] |= {"rangemode": "tozero", "hoverformat": ".3f"}
    traces = [line(steps, [value / GIB for value in values], "memory", VALIDATION)]
    return Chart("memory", f"Memory ({memory_kind(records)})", figure(traces, layout))


def memory_kind(records: RunRecords) -> str:
    """Say whose memory is recorded."""
    device = records.last_event("start").get("device")
    return "GPU of rank 0" if device == "cuda" else "resident, rank 0"


def best_step(records: RunRecords) -> int | None:
    """Return the best step: of the summary, else of the newest event that named one."""
    step = records.summary.record("best").integer("step")
    return records.last_event("evaluation_best").integer("step") if step is None else step


def monitor(records: RunRecords) -> str:
    """Return the metric that decided which step is the best."""
    chosen = records.setting("early_stopping", "monitor")
    return str(records.summary.record("best").text("metric") or chosen or "validation/loss")


def best_text(records: RunRecords, step: int, loss: float) -> str:
    """Say what was best: the loss, or the metric that was monitored instead."""
    metric = monitor(records)
    value = value_at(records.evaluations, step, metric)
    if metric == "validation/loss" or value is None:
        return f"best: {loss:.4f} at step {step:,}"
    return f"best {_metric_name(metric)}: {value:.4f} at step {step:,}"


def overfitting_since(records: RunRecords) -> int | None:
    """Return the first step of overfitting, if the run said so."""
    if records.summary:
        return records.summary.integer("overfitting_since")
    return records.last_event("overfitting").integer("since_step")


def _metric_name(key: str) -> str:
    name = key.removeprefix("validation/").replace("_", " ")
    return {"f1": "F1"}.get(name, name)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
