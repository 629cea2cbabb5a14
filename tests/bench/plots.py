# SPDX-License-Identifier: GPL-2.0-or-later
"""The plots and the table of docs/sizing-and-speed.md, made from the JSON of one run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Aim, Figure, Result
from tests.bench.svg import OURS, Chart, Row, draw

#: The folder of the page, which has a folder `plots`.
DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOTS, FIGURES = "sizing-and-speed.md", "plots", "figures.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Figures that one chart shows.

    Attributes:
        name: of the file, without `.svg`.
        measures: pattern of their measures; what it captures is the label of a row.
        unit: theirs.
        longer_is_better: whether much is good.
        title: of the chart.
        baseline: what they are compared with.
    """

    name: str
    measures: str
    unit: str
    longer_is_better: bool
    title: str
    baseline: str


GROUPS = (
    Group(
        name="updates",
        measures=r"updates, (.+)",
        unit="updates/s",
        longer_is_better=True,
        title="Presence updates stored, nobody watches",
        baseline="a plain driver, row by row",
    ),
    Group(
        name="watched",
        measures=r"updates to \d+ watchers, (.+)",
        unit="updates/s",
        longer_is_better=True,
        title="Presence updates until the last NOTIFY",
        baseline="the presence module alone",
    ),
    Group(
        name="routes",
        measures=r"events into (.+)",
        unit="events/s",
        longer_is_better=True,
        title="Events into a route that counts them",
        baseline="a plain consumer",
    ),
    Group(
        name="latency",
        measures=r"publish to (.+)",
        unit="ms",
        longer_is_better=False,
        title="From publish to route, and to NOTIFY",
        baseline="a plain consumer, or the presence module alone",
    ),
    Group(
        name="publish",
        measures=r"publish (p\d+)",
        unit="us",
        longer_is_better=False,
        title="One publish, until nsqd's OK",
        baseline="a plain socket",
    ),
    Group(
        name="sip",
        measures=r"SIP with (nsq_publish)",
        unit="requests/s",
        longer_is_better=True,
        title="SIP requests with a publish each",
        baseline="the same route without it",
    ),
    Group(
        name="queries",
        measures=r"query in a SIP worker (p\d+)",
        unit="us",
        longer_is_better=False,
        title="One query in a SIP worker, until its reply",
        baseline="two plain NSQ hops",
    ),
)


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
    for group in GROUPS:
        path = folder / f"{group.name}.svg"
        if group.name in drawn:
            path.write_bytes(drawn[group.name])
        else:
            path.unlink(missing_ok=True)
    (folder / FIGURES).write_text(text, encoding="utf-8")
    page.write_text(new_page, encoding="utf-8")


def read(text: str) -> Result:
    """Read what `Result.write` wrote.

    Raises:
        ValueError: it did not write this.
    """
    found = json.loads(text)
    try:
        figures = [
            Figure(
                measure=each["measure"],
                value=each["value"],
                unit=each["unit"],
                baseline=each["baseline"],
                aim=_aim(each["aim"]) if each["aim"] else None,
            )
            for each in found["figures"]
        ]
        return Result(figures=figures, errors=found["errors"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no result of a run: {error!r}") from error


def plots(figures: Sequence[Figure]) -> dict[str, bytes]:
    """Return the SVG of each group that has a figure, by name."""
    charts = {group.name: chart(group, figures) for group in GROUPS}
    return {name: draw(made) for name, made in charts.items() if made}


def chart(group: Group, figures: Sequence[Figure]) -> Chart | None:
    """Return the chart of a group, or None if it has no figure."""
    matches = ((re.fullmatch(group.measures, figure.measure), figure) for figure in figures)
    rows = [
        Row(label=match[1], value=figure.value, baseline=figure.baseline, aim=_aim_at(figure))
        for match, figure in matches
        if match and figure.unit == group.unit
    ]
    if not rows:
        return None
    return Chart(
        title=group.title,
        unit=group.unit,
        longer_is_better=group.longer_is_better,
        baseline=group.baseline,
        rows=rows,
    )


def page_with(page: str, result: Result) -> str:
    """Return the page with the plots and the table of this result in place of the old ones.

    Raises:
        ValueError: the page has no place for them.
    """
    drawn = [group for group in GROUPS if chart(group, result.figures)]
    images = [f"![{group.title}: {OURS} and {group.baseline}]({PLOTS}/{group.name}.svg)" for group in drawn]
    page = _replace(page, "plots", "\n\n".join(images))
    return _replace(page, "figures", markdown_table(result.figures) + _spoiled(result))


def markdown_table(figures: Sequence[Figure]) -> str:
    """Write all figures as a table."""
    lines = ["| measure | value | baseline | ratio | aim | met |", "| --- | ---: | ---: | ---: | --- | --- |"]
    for figure in figures:
        met = {True: "yes", False: "no", None: ""}[figure.met]
        lines.append(f"| {' | '.join((*figure.cells, met))} |")
    return "\n".join(lines)


def _spoiled(result: Result) -> str:
    """Name the measures without figures; the reasons are log lines, and stay in the JSON."""
    if not result.errors:
        return ""
    return f"\n\nWithout a figure in this run: {', '.join(f'`{name}`' for name in result.errors)}."


def _replace(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the page has no {begin} followed by {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def _aim(text: str) -> Aim:
    match text.split():
        case [("value" | "ratio") as of, ("<=" | ">=") as relation, limit]:
            return Aim(of=of, relation=relation, limit=float(limit))
    raise ValueError(f"{text!r} is no aim")


def _aim_at(figure: Figure) -> float | None:
    """Return what the value should be by an aim on the ratio; one on the value may lie far off, the table has it."""
    if figure.aim is None or figure.aim.of != "ratio" or figure.baseline is None:
        return None
    return figure.aim.limit * figure.baseline
