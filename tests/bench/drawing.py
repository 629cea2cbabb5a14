# SPDX-License-Identifier: GPL-2.0-or-later
"""A chart as an SVG file, by matplotlib: a row has kemi-nsq's bar, its baseline's below it, and a mark at the aim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from tests.bench.charts import OURS, Chart, Row
from tests.bench.figures import number

#: In inches, at 96 px each in a page.
_WIDTH, _ROW, _REST = 7.5, 0.5, 1.3
#: Height of a bar, and of the mark over both; a row is 1 high.
_THICK, _MARK = 0.36, 0.88
_BLUE, _GREY, _ORANGE = "#0969da", "#a4acb5", "#bc4c00"

# Whatever the developer's own matplotlibrc says. Text stays text. A salt of our own makes the ids, and with them the
# file, the same each time.
matplotlib.rcdefaults()
matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "kemi-nsq",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def svg(chart: Chart, rows: Sequence[Row]) -> bytes:
    """Return the chart of these rows as an SVG file: the same bytes for the same rows."""
    file = BytesIO()
    # Date and version of matplotlib would differ each time.
    metadata = {"Title": chart.title, "Description": _description(chart, rows), "Date": None, "Creator": None}
    draw(chart, rows).savefig(file, format="svg", metadata=metadata)
    return file.getvalue()


def draw(chart: Chart, rows: Sequence[Row]) -> Figure:
    """Return the chart of these rows, one or more, from top to bottom."""
    # White of its own, as a page may be dark.
    figure = Figure(figsize=(_WIDTH, _REST + _ROW * len(rows)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_title(chart.title, loc="left", fontweight="bold")
    axes.set_xlabel(f"{chart.unit}; {chart.better} is better")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter("{x:,g}")
    values = _bars(axes, OURS, {place - _THICK / 2: row.value for place, row in enumerate(rows)}, _BLUE)
    baselines = _bars(axes, chart.baseline, {place + _THICK / 2: row.baseline for place, row in enumerate(rows)}, _GREY)
    aims = _aims(axes, {place: row.aim for place, row in enumerate(rows)})
    longest = max(length for row in rows for length in (row.value, row.baseline, row.aim) if length is not None)
    axes.set_xlim(0, longest * 1.02 or 1)
    figure.legend(handles=values + baselines + aims, loc="outside lower left", ncols=3, frameon=False)
    return figure


def _bars(axes: Axes, name: str, lengths: Mapping[float, float | None], color: str) -> list[BarContainer]:
    """Add a bar at each place that has a length, and its number in a column on the right, where no bar or mark is."""
    known = {place: length for place, length in lengths.items() if length is not None}
    for place, length in known.items():
        axes.text(1.01, place, number(length), transform=axes.get_yaxis_transform(), va="center_baseline")
    return [axes.barh(list(known), list(known.values()), height=_THICK, color=color, label=name)] if known else []


def _aims(axes: Axes, lengths: Mapping[int, float | None]) -> list[LineCollection]:
    """Add a mark over both bars of each row that has an aim."""
    known = {place: length for place, length in lengths.items() if length is not None}
    ends = [place - _MARK / 2 for place in known], [place + _MARK / 2 for place in known]
    return [axes.vlines(list(known.values()), *ends, colors=_ORANGE, linewidths=2.5, label="aim")] if known else []


def _description(chart: Chart, rows: Sequence[Row]) -> str:
    """Say what the chart shows, for those who cannot see it."""
    sentences = [f"Bars of {OURS} and of {chart.baseline}, in {chart.unit}; {chart.better} is better."]
    for row in rows:
        parts = [f"{OURS} {number(row.value)}"]
        parts += [] if row.baseline is None else [f"baseline {number(row.baseline)}"]
        parts += [] if row.aim is None else [f"aim {number(row.aim)}"]
        sentences.append(f"{row.label}: {', '.join(parts)}.")
    return " ".join(sentences)
