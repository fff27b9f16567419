"""How the report's curves look: thinned, smoothed, in one quiet style, as Plotly's dictionaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

Trace = dict[str, Any]
Layout = dict[str, Any]

MUTED, FAINT = "#667085", "#c9d0db"
TRAINING, VALIDATION, BEST, OVERFITTING = "#586377", "#1f5fd0", "#0b7a5b", "#b25e09"
SERIES = (VALIDATION, "#8a5a9e", BEST, TRAINING)
POINTS = 1200  # of a curve: more than a screen has columns
FEW_POINTS = 60  # up to which a curve is readable as it is


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
        "y": [short(value) for value in y],
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


def base_layout(last_step: int, unit: str, height: int = 270) -> Layout:
    """Return the common look: thin grid, no frame, units on the axes, the whole run in sight."""
    axis = {
        "gridcolor": "#eceff3", "zeroline": False, "linecolor": "#d5dae2", "tickcolor": "#d5dae2",
        "ticks": "outside", "ticklen": 4, "automargin": True,
    }  # fmt: skip
    end = max(1, last_step)
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


def figure(traces: list[Trace], layout: Layout) -> dict[str, Any]:
    """Join curves and look; one curve alone needs no legend and no room for it."""
    layout["showlegend"] = len(traces) > 1
    if len(traces) == 1:
        layout["margin"] = {**layout["margin"], "t": 14}
    return {"data": traces, "layout": layout}


def anchor(position: float) -> str:
    """Return which end of a text stands at a point, so that it stays inside the chart."""
    return "left" if position < 0.12 else "right" if position > 0.88 else "center"


def short(value: float) -> float | None:
    """Return six digits, which is more than can be seen; None, a gap, if it isn't finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
