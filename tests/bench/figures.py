# SPDX-License-Identifier: GPL-2.0-or-later
"""What a measure says: a figure beside its baseline and its aim, and the table and JSON made of them."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Column, Table

_RELATIONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}


class Spoiled(Exception):
    """A run lost or doubled an event, or was not what the measure is about: it has no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What a figure should be.

    Attributes:
        of: what is judged, the value itself or its ratio to the baseline.
        relation: how it should compare to `limit`.
        limit: in the figure's unit, or a plain number for a ratio.
    """

    of: Literal["value", "ratio"]
    relation: Literal["<=", ">="]
    limit: float

    def __str__(self) -> str:
        """Write the aim as `ratio <= 1.5`."""
        return f"{self.of} {self.relation} {self.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the result.

    Attributes:
        measure: what was measured.
        value: the figure of kemi-nsq.
        unit: of value and baseline.
        baseline: the figure to compare with, measured in the same run, or None.
        aim: what it should be, or None for one that is only shown.
    """

    measure: str
    value: float
    unit: str
    baseline: float | None = None
    aim: Aim | None = None

    @property
    def ratio(self) -> float | None:
        """The value divided by the baseline."""
        return self.value / self.baseline if self.baseline else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without one."""
        if self.aim is None:
            return None
        judged = self.value if self.aim.of == "value" else self.ratio
        return judged is not None and _RELATIONS[self.aim.relation](judged, self.aim.limit)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Measure, value, baseline, ratio and aim, as a table shows them."""
        value, baseline = _written(self.value, self.unit), _written(self.baseline, self.unit)
        return self.measure, value, baseline, _written(self.ratio, ""), str(self.aim or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that one run says.

    Attributes:
        figures: what was measured.
        errors: name of each measure that has no figures, and why.
        left: names of the measures that did not end, because the run was interrupted.
    """

    figures: Sequence[Figure]
    errors: dict[str, str]
    left: Sequence[str] = ()

    def print(self, console: Console) -> None:
        """Print a table, and what went wrong."""
        table = Table(
            "measure", *(Column(name, justify="right") for name in ("value", "baseline", "ratio")), "aim", "met"
        )
        for figure in self.figures:
            table.add_row(*figure.cells, {True: "yes", False: "[bold red]no", None: ""}[figure.met])
        console.print(table)
        for measure, error in self.errors.items():
            console.print(f"{measure}: no figure: {error}", style="red", markup=False)
        if self.left:
            console.print(f"incomplete: not measured: {', '.join(self.left)}", style="red", markup=False)

    def write(self, path: Path) -> None:
        """Write the same as JSON, which `read` reads."""
        figures = [
            {
                "measure": figure.measure,
                "value": figure.value,
                "unit": figure.unit,
                "baseline": figure.baseline,
                "ratio": figure.ratio,
                "aim": str(figure.aim) if figure.aim else None,
                "met": figure.met,
            }
            for figure in self.figures
        ]
        made = {"figures": figures, "errors": self.errors, "left": list(self.left)}
        path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


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
        return Result(figures=figures, errors=found["errors"], left=tuple(found.get("left", ())))
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no result of a run: {error!r}") from error


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample below which a share (0 to 1) of them lies."""
    return sorted(samples)[round(share * (len(samples) - 1))]


def check_once_each(found: Sequence[object], sent: int, what: str) -> None:
    """Check that as many came as were sent, all different.

    Raises:
        Spoiled: some are missing, or came twice.
    """
    different = len(set(found))
    if (len(found), different) != (sent, sent):
        raise Spoiled(f"{sent} {what} sent, {len(found)} came, {different} of them different")


def number(value: float) -> str:
    """Write a number with three digits, or all those before the point, in groups of three."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _written(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}".strip()


def _aim(text: str) -> Aim:
    match text.split():
        case [("value" | "ratio") as of, ("<=" | ">=") as relation, limit]:
            return Aim(of=of, relation=relation, limit=float(limit))
    raise ValueError(f"{text!r} is no aim")
