# SPDX-License-Identifier: GPL-2.0-or-later
"""Which charts docs/sizing-and-speed.md has, and which figures each of them shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.figures import Figure

OURS = "kemi-nsq"


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
    """Figures that are shown together.

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

    @property
    def better(self) -> str:
        """Which bars are good."""
        return "longer" if self.longer_is_better else "shorter"

    def rows(self, figures: Sequence[Figure]) -> list[Row]:
        """Return what the chart shows of these figures, from top to bottom; nothing if none is of its kind."""
        matches = ((re.fullmatch(self.measures, figure.measure), figure) for figure in figures)
        return [
            Row(label=match[1], value=figure.value, baseline=figure.baseline, aim=_aim_at(figure))
            for match, figure in matches
            if match and figure.unit == self.unit
        ]


CHARTS = (
    Chart(
        name="updates",
        measures=r"updates, (.+)",
        unit="updates/s",
        longer_is_better=True,
        title="Presence updates stored, nobody watches",
        baseline="a plain driver, row by row",
    ),
    Chart(
        name="watched",
        measures=r"updates to \d+ watchers, (.+)",
        unit="updates/s",
        longer_is_better=True,
        title="Presence updates until the last NOTIFY",
        baseline="the presence module alone",
    ),
    Chart(
        name="routes",
        measures=r"events into (.+)",
        unit="events/s",
        longer_is_better=True,
        title="Events into a route that counts them",
        baseline="a plain consumer",
    ),
    Chart(
        name="latency",
        measures=r"publish to (.+)",
        unit="ms",
        longer_is_better=False,
        title="From publish to route, and to NOTIFY",
        baseline="a plain consumer, or the presence module alone",
    ),
    Chart(
        name="publish",
        measures=r"publish (p\d+)",
        unit="us",
        longer_is_better=False,
        title="One publish, until nsqd's OK",
        baseline="a plain socket",
    ),
    Chart(
        name="sip",
        measures=r"SIP with (nsq_publish(?:_async)?)",
        unit="requests/s",
        longer_is_better=True,
        title="SIP requests with a publish each",
        baseline="the same route without it",
    ),
    Chart(
        name="queries",
        measures=r"query in a SIP worker (p\d+)",
        unit="us",
        longer_is_better=False,
        title="One query in a SIP worker, until its reply",
        baseline="two plain NSQ hops",
    ),
    Chart(
        name="growth",
        measures=r"grown to (.+)",
        unit="updates/s",
        longer_is_better=True,
        title="Updates, as something grows",
        baseline="100 presentities, 1 call, 1 watcher",
    ),
    Chart(
        name="memory",
        measures=r"memory of (.+)",
        unit="MB",
        longer_is_better=False,
        title="Memory of a process",
        baseline="a SIP worker without kemi-nsq",
    ),
)


def _aim_at(figure: Figure) -> float | None:
    """Return what the value should be by an aim on the ratio; one on the value may lie far off, the table has it."""
    if figure.aim is None or figure.aim.of != "ratio" or figure.baseline is None:
        return None
    return figure.aim.limit * figure.baseline
