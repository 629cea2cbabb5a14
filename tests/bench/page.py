# SPDX-License-Identifier: GPL-2.0-or-later
"""The plots and the table of docs/sizing-and-speed.md, made from the JSON of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.charts import CHARTS, OURS
from tests.bench.drawing import svg
from tests.bench.figures import Figure, Result, read
from tests.support.markdown import with_block

#: The folder of the page, which has a folder `plots`.
DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOTS, FIGURES = "sizing-and-speed.md", "plots", "figures.json"


def write(result: Path, docs: Path) -> None:
    """Write the plots, the page's figures and a copy of the JSON; a plot that has no figure any more is removed.

    Raises:
        ValueError: the file is no result, or the page has no place for the figures. Nothing is written.
    """
    text = result.read_text(encoding="utf-8")
    found, page = read(text), docs / PAGE
    new_page = page_with(page.read_text(encoding="utf-8"), found)
    drawn = plots(found.figures)
    folder = docs / PLOTS
    folder.mkdir(exist_ok=True)
    for chart in CHARTS:
        path = folder / f"{chart.name}.svg"
        if chart.name in drawn:
            path.write_bytes(drawn[chart.name])
        else:
            path.unlink(missing_ok=True)
    (folder / FIGURES).write_text(text, encoding="utf-8")
    page.write_text(new_page, encoding="utf-8")


def plots(figures: Sequence[Figure]) -> dict[str, bytes]:
    """Return the SVG of each chart that has a figure, by name."""
    return {chart.name: svg(chart, rows) for chart in CHARTS if (rows := chart.rows(figures))}


def page_with(page: str, result: Result) -> str:
    """Return the page with the plots and the table of this result in place of the old ones.

    Raises:
        ValueError: the page has no place for them.
    """
    drawn = [chart for chart in CHARTS if chart.rows(result.figures)]
    images = [f"![{chart.title}: {OURS} and {chart.baseline}]({PLOTS}/{chart.name}.svg)" for chart in drawn]
    page = with_block(page, "plots", "\n\n".join(images))
    return with_block(page, "figures", markdown_table(result.figures) + _spoiled(result))


def markdown_table(figures: Sequence[Figure]) -> str:
    """Write all figures as a table."""
    lines = ["| measure | value | baseline | ratio | aim | met |", "| --- | ---: | ---: | ---: | --- | --- |"]
    for figure in figures:
        met = {True: "yes", False: "no", None: ""}[figure.met]
        lines.append(f"| {' | '.join((*figure.cells, met))} |")
    return "\n".join(lines)


def _spoiled(result: Result) -> str:
    """Name the measures without figures; the reasons are log lines, and stay in the JSON."""
    without = [*result.errors, *result.left]
    if not without:
        return ""
    return f"\n\nWithout a figure in this run: {', '.join(f'`{name}`' for name in without)}."
