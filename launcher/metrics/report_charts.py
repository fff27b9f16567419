"""The report's curves as Plotly figures: plain dictionaries, drawn by the page itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from launcher.metrics.report_read import RunRecords, series, value_at

Trace = dict[str, Any]

INK, MUTED, FAINT = "#1d2433", "#667085", "#c9d0db"
TRAINING, VALIDATION, BEST, OVERFITTING = "#586377", "#1f5fd0", "#0b7a5b", "#b25e09"
SECOND, THIRD = "#8a5a9e", "#0b7a5b"
POINTS = 1200  # of a curve: more than a screen has columns
FEW_POINTS = 60  # up to which a curve is readable as it is
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
    layout = base_layout(records, "loss per target (nats)", height=430)
    mark_best(records, traces, layout)
    mark_overfitting(records, layout)
    mark_restarts(records, traces, layout)
    return Chart("loss", "Training and validation loss", _figure(traces, layout))


def mark_best(records: RunRecords, traces: list[Trace], layout: dict[str, Any]) -> None:
    """Ring the best step on the validation curve and write its value beside it."""
    step = best_step(records)
    loss = None if step is None else value_at(records.evaluations, step, "validation/loss")
    if step is None or loss is None:
        return
    traces.append(
        {
            "type": "scatter", "mode": "markers", "x": [step], "y": [_short(loss)],
            "name": "best", "hoverinfo": "skip",
            "marker": {"size": 13, "color": "#ffffff", "line": {"width": 3, "color": BEST}},
        }
    )  # fmt: skip
    layout["annotations"].append(
        {
            "x": step, "y": _short(loss), "text": f"best: {loss:.4f} at step {step:,}",
            "showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": BEST,
            "ax": 0, "ay": -46, "font": {"color": BEST, "size": 13}, "bgcolor": "#ffffff",
        }
    )  # fmt: skip


def mark_overfitting(records: RunRecords, layout: dict[str, Any]) -> None:
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


def mark_restarts(records: RunRecords, traces: list[Trace], layout: dict[str, Any]) -> None:
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
        colors = (VALIDATION, SECOND, THIRD, TRAINING)
        traces = [
            line(*found[key], _metric_name(key), colors[index % 4], markers=True)
            for index, key in enumerate(sorted(shares))
        ]
        layout = base_layout(records, "share of validation rows")
        layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
        title = " and ".join(_metric_name(key) for key in sorted(shares))
        result.append(Chart("shares", _capital(title), _figure(traces, layout)))
    for key in (key for key in found if key not in shares):
        name = _metric_name(key)
        layout = base_layout(records, name)
        traces = [line(*found[key], name, VALIDATION, markers=True)]
        result.append(Chart(f"metric-{len(result)}", _capital(name), _figure(traces, layout)))
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
    layout = base_layout(records, unit)
    if exponent:
        layout["yaxis"] |= {"exponentformat": "e", "hoverformat": ".3e"}
    if from_zero:
        layout["yaxis"] |= {"rangemode": "tozero", "hoverformat": ",.0f"}
    if exponent:
        traces = [line(steps, values, title.lower(), VALIDATION)]
    else:
        traces = smoothed(steps, values, "", VALIDATION)
    return Chart(key, title, _figure(traces, layout))


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
    layout = base_layout(records, "peak so far, GiB")
    layout["yaxis"] |= {"rangemode": "tozero", "hoverformat": ".3f"}
    traces = [line(steps, [value / GIB for value in values], "memory", VALIDATION)]
    return Chart("memory", f"Memory ({memory_kind(records)})", _figure(traces, layout))


def memory_kind(records: RunRecords) -> str:
    """Say whose memory is recorded."""
    device = records.last_event("start").get("device")
    return "GPU of rank 0" if device == "cuda" else "resident, rank 0"


def best_step(records: RunRecords) -> int | None:
    """Return the best step: of the summary, else of the newest event that named one."""
    best = records.summary.get("best") or {}
    step = best.get("step", records.last_event("evaluation_best").get("step"))
    return None if step is None else int(step)


def overfitting_since(records: RunRecords) -> int | None:
    """Return the first step of overfitting, if the run said so."""
    if records.summary:
        since = records.summary.get("overfitting_since")
    else:
        since = records.last_event("overfitting").get("since_step")
    return None if since is None else int(since)


def line(
    steps: Sequence[int],
    values: Sequence[float],
    name: str,
    color: str,
    *,
    width: float = 2,
    markers: bool = False,
) -> Trace:
    """Return one curve, thinned to what a screen can show."""
    x, y = thin(steps, values)
    trace: Trace = {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "x": x,
        "y": [_short(value) for value in y],
        "name": escape(name),  # Plotly reads a few HTML tags in names
        "line": {"color": color, "width": width},
    }
    if markers:
        trace |= {"marker": {"size": 6, "color": color}, "cliponaxis": False}
    if not markers and len(x) == 1:
        trace["mode"] = "markers"  # a line of one point would be invisible
    return trace


def smoothed(steps: list[int], values: list[float], name: str, color: str) -> list[Trace]:
    """Return a curve; a long one as its moving average over what was measured.

    `name` goes in front of the two names in the legend.
    """
    if not steps:
        return []
    if len(steps) <= FEW_POINTS:
        return [line(steps, values, name.removesuffix(", "), color)]
    raw = line(steps, values, f"{name}each record", FAINT, width=1)
    return [raw, line(steps, smooth(values), f"{name}smoothed", color)]


def smooth(values: Sequence[float], weight: float = 0.92) -> list[float]:
    """Return the exponential moving average, without the bias of its start."""
    smoothed, average, norm = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            average = weight * average + (1 - weight) * value
            norm = weight * norm + (1 - weight)
        smoothed.append(average / norm if norm and math.isfinite(value) else math.nan)
    return smoothed


def thin(
    steps: Sequence[int], values: Sequence[float], limit: int = POINTS
) -> tuple[list[int], list[float]]:
    """Keep the lowest and highest point of each bucket, so that no spike is lost."""
    if len(steps) <= limit:
        return list(steps), list(values)
    size = math.ceil(2 * len(steps) / limit)
    kept: set[int] = {0, len(steps) - 1}
    for start in range(0, len(steps), size):
        bucket = range(start, min(start + size, len(steps)))
        kept |= {index for index in bucket if not math.isfinite(values[index])}
        finite = [index for index in bucket if math.isfinite(values[index])]
        if finite:
            kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
    order = sorted(kept)
    return [steps[index] for index in order], [values[index] for index in order]


def base_layout(records: RunRecords, unit: str, height: int = 270) -> dict[str, Any]:
    """Return the common look: thin grid, no frame, units on the axes."""
    axis = {
        "gridcolor": "#eceff3", "zeroline": False, "linecolor": "#d5dae2", "tickcolor": "#d5dae2",
        "ticks": "outside", "ticklen": 4, "automargin": True,
    }  # fmt: skip
    end = max(1, records.last_step)
    title_font = {"size": 13, "color": MUTED}
    return {
        "height": height,
        "margin": {"l": 56, "r": 14, "t": 30, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified",
        "showlegend": False,
        "xaxis": {**axis, "showgrid": False, "range": [-0.005 * end, 1.01 * end],
                  "title": {"text": "optimizer step", "font": title_font, "standoff": 8},
                  "hoverformat": ",d", "separatethousands": True},
        "yaxis": {**axis, "showline": False, "ticks": "",
                  "title": {"text": escape(unit), "font": title_font, "standoff": 10}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "shapes": [],
        "annotations": [],
    }  # fmt: skip


def _figure(traces: list[Trace], layout: dict[str, Any]) -> dict[str, Any]:
    layout["showlegend"] = len(traces) > 1
    if len(traces) == 1:
        layout["margin"] = {**layout["margin"], "t": 14}
    return {"data": traces, "layout": layout}


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _metric_name(key: str) -> str:
    name = key.removeprefix("validation/").replace("_", " ")
    return {"f1": "F1"}.get(name, name)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
