# SPDX-License-Identifier: GPL-2.0-or-later
"""Horizontal bar charts as SVG: for each row kemi-nsq's bar, its baseline's below it, and a tick where the aim lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from tests.bench.figures import number

WIDTH = 720
OURS = "kemi-nsq"

_NAMESPACE = "http://www.w3.org/2000/svg"
_MARGIN, _GAP = 16, 10
#: Fonts differ; no letter of theirs is wider than this on the average of a label, in px.
_LETTER = 7.6
_BAR, _ROW = 15, 48
_FIRST_ROW = 96
_LEGEND_Y, _SWATCH = 68, 12
# A background of its own: a page may be dark while the system asks for light, and the other way round.
_STYLE = """
.paper { fill: #ffffff; }
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.heading { font-size: 16px; font-weight: 600; }
.note { fill: #59636e; }
.number { font-variant-numeric: tabular-nums; text-anchor: end; }
.value { fill: #0969da; }
.baseline { fill: #a4acb5; }
.aim { stroke: #bc4c00; stroke-width: 3; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; }
  text { fill: #f0f6fc; }
  .note { fill: #9198a1; }
  .value { fill: #4493f8; }
  .baseline { fill: #656c76; }
  .aim { stroke: #f0883e; }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one row of a chart shows, all in the chart's unit.

    Attributes:
        label: stands left of the bars.
        value: of kemi-nsq.
        baseline: what it is compared with, or None.
        aim: where the value should be, or None.
    """

    label: str
    value: float
    baseline: float | None
    aim: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        title: its first line.
        unit: of all its bars.
        longer_is_better: whether much is good.
        baseline: what the baseline is.
        rows: from top to bottom, one or more.
    """

    title: str
    unit: str
    longer_is_better: bool
    baseline: str
    rows: Sequence[Row]


def draw(chart: Chart) -> bytes:
    """Return the chart as an SVG file."""
    height = _FIRST_ROW + _ROW * len(chart.rows)
    root = etree.fromstring(f'<svg xmlns="{_NAMESPACE}"/>')
    _set(root, width=WIDTH, height=height, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_labelledby="title desc")
    _add(root, "title", chart.title, id="title")
    _add(root, "desc", _description(chart), id="desc")
    _add(root, "style", _STYLE)
    _add(root, "rect", class_="paper", width=WIDTH, height=height, rx=6)
    _add(root, "text", chart.title, class_="heading", x=_MARGIN, y=28)
    _add(root, "text", f"{chart.unit}; {_better(chart)} is better", class_="note", x=_MARGIN, y=48)
    _add_legend(root, chart)
    left = 2 * _MARGIN + _text_width([row.label for row in chart.rows])
    right = (
        WIDTH - _MARGIN - _GAP - _text_width([number(length) for row in chart.rows for length in _bars(row).values()])
    )
    longest = max(length for row in chart.rows for length in (*_bars(row).values(), row.aim or 0))
    for place, row in enumerate(chart.rows):
        _add_row(root, row, _FIRST_ROW + _ROW * place, left, (right - left) / longest if longest else 0)
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True, pretty_print=True)


def _bars(row: Row) -> dict[str, float]:
    """Return the class and the length of each bar of a row."""
    return {"value": row.value} | ({} if row.baseline is None else {"baseline": row.baseline})


def _add_row(root: etree._Element, row: Row, top: int, left: float, scale: float) -> None:
    group = _add(root, "g", class_="row")
    _add(group, "text", row.label, class_="label", x=_MARGIN, y=top + _BAR + 5)
    for place, (kind, length) in enumerate(_bars(row).items()):
        y = top + place * (_BAR + 1)
        _add(group, "rect", class_=kind, x=left, y=y, width=length * scale, height=_BAR)
        _add(group, "text", number(length), class_="number", x=WIDTH - _MARGIN, y=y + 12)
    if row.aim is not None:
        x = left + row.aim * scale
        _add(group, "line", class_="aim", x1=x, x2=x, y1=top - 4, y2=top + 2 * _BAR + 5)


def _add_legend(root: etree._Element, chart: Chart) -> None:
    x: float = _MARGIN
    kinds = {"value": OURS, "baseline": chart.baseline, "aim": "aim"}
    shown = {kind for row in chart.rows for kind in _bars(row)} | {"aim" for row in chart.rows if row.aim is not None}
    group = _add(root, "g", class_="legend")
    for kind, words in kinds.items():
        if kind not in shown:
            continue
        if kind == "aim":
            middle = x + _SWATCH / 2
            _add(group, "line", class_=kind, x1=middle, x2=middle, y1=_LEGEND_Y - 11, y2=_LEGEND_Y + 3)
        else:
            _add(group, "rect", class_=kind, x=x, y=_LEGEND_Y - 10, width=_SWATCH, height=_SWATCH)
        _add(group, "text", words, x=x + _SWATCH + 6, y=_LEGEND_Y)
        x += _SWATCH + 6 + _text_width([words]) + _GAP


def _description(chart: Chart) -> str:
    """Say what the chart shows, for those who cannot see it."""
    sentences = [f"Bars of {OURS} and of {chart.baseline}, in {chart.unit}; {_better(chart)} is better."]
    for row in chart.rows:
        parts = [f"{OURS} {number(row.value)}"]
        parts += [] if row.baseline is None else [f"baseline {number(row.baseline)}"]
        parts += [] if row.aim is None else [f"aim {number(row.aim)}"]
        sentences.append(f"{row.label}: {', '.join(parts)}.")
    return " ".join(sentences)


def _better(chart: Chart) -> str:
    return "longer" if chart.longer_is_better else "shorter"


def _text_width(texts: Sequence[str]) -> float:
    return _LETTER * max(map(len, texts))


def _add(parent: etree._Element, tag: str, text: str | None = None, **attributes: str | float) -> etree._Element:
    element = etree.SubElement(parent, f"{{{_NAMESPACE}}}{tag}")
    element.text = text
    _set(element, **attributes)
    return element


def _set(element: etree._Element, **attributes: str | float) -> None:
    """Set attributes; `class_` and `aria_labelledby` are written as XML has them."""
    for name, value in attributes.items():
        written = name.rstrip("_").replace("_", "-")
        element.set(written, value if isinstance(value, str) else f"{round(value, 2):g}")
