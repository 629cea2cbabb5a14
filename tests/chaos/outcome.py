# SPDX-License-Identifier: GPL-2.0-or-later
"""What came of each fault, as a table on the console, on the page, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from tests.support.markdown import with_block

#: Characters of an error; one of Kamailio holds its whole log.
_LONGEST = 600
#: The columns of the table.
HEAD = (
    "fault",
    "events accepted",
    "stored",
    "dead-lettered",
    "lost",
    "rows wrong",
    "lamps wrong",
    "after SUBSCRIBE",
    "longest gap",
    "recovery time",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one fault.

    Attributes:
        fault: its name.
        accepted: events to which nsqd answered OK.
        uncertain: events that were sent and got no answer; they count nowhere else.
        dead: accepted events that became dead letters.
        lost: accepted events that had no effect in some table, and are no dead letters.
        rows_wrong: rows of both tables that are not as the model says.
        lamps: lamps there are.
        lamps_wrong: lamps that are not as the model says, when all came to rest.
        lamps_wrong_after: the same, after every phone subscribed again.
        gap_s: the longest time in which no phone of one node was told anything while the load ran.
        recovery_s: from the end of the fault until all that waited was handled; None if there was nothing to recover
            from, or it never did.
        rested: everything came to rest.
        notes: what is wrong, in words.
    """

    fault: str
    accepted: int
    uncertain: int
    dead: int
    lost: int
    rows_wrong: int
    lamps: int
    lamps_wrong: int
    lamps_wrong_after: int
    gap_s: float = 0.0
    recovery_s: float | None = None
    rested: bool = True
    notes: Sequence[str] = ()

    @property
    def stored(self) -> int:
        """Accepted events whose state, or a later one of the same thing, is in both tables."""
        return self.accepted - self.dead - self.lost

    @property
    def right(self) -> bool:
        """Whether nothing was lost, and everything that can be seen is right."""
        wrong = self.lost, self.rows_wrong, self.lamps_wrong, self.lamps_wrong_after
        return self.rested and self.accepted > 0 and not any(wrong)

    @property
    def cells(self) -> tuple[str, ...]:
        """The outcome as a table shows it."""
        counts = self.accepted, self.stored, self.dead, self.lost, self.rows_wrong
        lamps = f"{self.lamps_wrong} of {self.lamps}", str(self.lamps_wrong_after)
        times = _seconds(self.gap_s), _seconds(self.recovery_s)
        return (self.fault, *(f"{each:,}" for each in counts), *lamps, *times)

    def with_times(self, *, gap_s: float, recovery_s: float | None, rested: bool, notes: Sequence[str]) -> Outcome:
        """Return the same with what is known only later."""
        return replace(self, gap_s=gap_s, recovery_s=recovery_s, rested=rested, notes=tuple(notes))


def failed(fault: str, error: str) -> Outcome:
    """Return the outcome of a fault that could not be judged."""
    nothing = dict.fromkeys(("accepted", "uncertain", "dead", "lost", "rows_wrong", "lamps"), 0)
    return Outcome(fault=fault, **nothing, lamps_wrong=0, lamps_wrong_after=0, rested=False, notes=(error[:_LONGEST],))


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table, and below it what is wrong."""
    table = Table(Column(HEAD[0], no_wrap=True), *(Column(name, justify="right") for name in HEAD[1:]))
    for outcome in outcomes:
        table.add_row(*outcome.cells, style=None if outcome.right else "red")
    console.print(table)
    for outcome in outcomes:
        for note in outcome.notes:
            console.print(f"{outcome.fault}: {note}", markup=False, highlight=False, soft_wrap=True)


def write_json(outcomes: Sequence[Outcome], measured: str, path: Path) -> None:
    """Write all that is known to a file.

    Args:
        outcomes: what came of each fault.
        measured: on what, in words.
        path: the file.
    """
    made = [asdict(outcome) | {"stored": outcome.stored, "right": outcome.right} for outcome in outcomes]
    path.write_text(json.dumps({"measured": measured, "outcomes": made}, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> tuple[list[Outcome], str]:
    """Return the outcomes that a file holds, and on what they were measured."""
    read = json.loads(path.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Outcome)}
    made = ({name: value for name, value in each.items() if name in names} for each in read["outcomes"])
    return [Outcome(**each | {"notes": tuple(each["notes"])}) for each in made], read["measured"]


def page_with(page: str, outcomes: Sequence[Outcome], measured: str) -> str:
    """Return the page with this table in place of the old one.

    Raises:
        ValueError: the page has no place for it.
    """
    lines = [HEAD, ("---", *("---:" for _ in HEAD[1:])), *((f"`{each.fault}`", *each.cells[1:]) for each in outcomes)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return with_block(page, "outcomes", f"{measured}\n\n{table}")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
