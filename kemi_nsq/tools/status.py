# SPDX-License-Identifier: GPL-2.0-or-later
"""What the processes of a Kamailio show in its runtime folder, for an operator: `kemi-nsq status`.

Only files are read, so it works while all of Kamailio is stuck. What a process cannot say of itself, because a native
route keeps Python's lock, follows from the times in its page.
"""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kemi_nsq.clock import local_time
from kemi_nsq.runtime.folder import STACK, sheets
from kemi_nsq.runtime.page import Fact, Gauge, Sheet, described

CONSUMER = "consumer"
#: The I/O thread of a consumer turns twice a second. A native route may hold it up until NSQ_ROUTE_TIMEOUT.
_SILENT_S = 5.0
#: Facts that every process shows; all others tell of something that is wrong.
_PLAIN = frozenset({Fact.HANDLING, Fact.DOING})
_TIMES = frozenset({Gauge.LAST_EVENT, Gauge.MAIN_TURN, Gauge.IO_TURN, Gauge.BUSY_SINCE})
_OUTBOX = frozenset({Gauge.OUTBOX_MESSAGES, Gauge.OUTBOX_BYTES, Gauge.OUTBOX_OLDEST})
#: Gauges that are no column of the table.
_ASIDE = frozenset({Gauge.MAIN_TURN, Gauge.IO_TURN, Gauge.ROUTE_TIMEOUT}) | _OUTBOX
#: So much of a file of stacks is shown: its end.
_STACK_BYTES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process.

    Attributes:
        pid: its id.
        role: `consumer`, or '' for a SIP worker.
        alive: whether it runs.
        state: what it does, in words.
        wrong: what is wrong with it, or ''.
        outbox: what the outbox holds, in words, or '' if that is nothing, or is sent by another process.
        facts: what it shows.
        gauges: its numbers.
        counters: what it has counted.
        stack: the last stack that it left, if it is stuck.
    """

    pid: int
    role: str
    alive: bool
    state: str
    wrong: str
    outbox: str
    facts: dict[str, str]
    gauges: dict[str, float]
    counters: dict[str, int]
    stack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of them, and the sums of their counters."""

    processes: Sequence[Process]
    counters: dict[str, int]

    @property
    def well(self) -> bool:
        """Whether a consumer runs and nothing is wrong."""
        consuming = any(process.alive and process.role == CONSUMER for process in self.processes)
        return consuming and not any(process.wrong for process in self.processes)

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return {"well": self.well, **asdict(self)}


def look(folder: Path, now: float) -> Status:
    """Read a runtime folder.

    Raises:
        RunFolderError: it is not there, or may not be read.
    """
    processes = [_process(folder, sheet, alive, now) for sheet, alive in sheets(folder)]
    sums: Multiset[str] = Multiset()
    for process in processes:
        sums.update(process.counters)
    return Status(processes=processes, counters=dict(sums))


def show(status: Status, console: Console) -> None:
    """Print it: a line for each process, what is wrong, what waits in the outbox, and the counters."""
    gauges = [gauge for gauge in Gauge if gauge not in _ASIDE]
    table = Table("pid", "role", "state", *(gauge.replace("_", " ") for gauge in gauges), box=None, header_style="bold")
    for each in status.processes:
        numbers = (_number(gauge, each.gauges[gauge]) if each.role == CONSUMER else "" for gauge in gauges)
        table.add_row(str(each.pid), each.role or "worker", each.state, *numbers)
    console.print(table)
    for each in status.processes:
        if each.wrong:
            console.print(f"\n{each.pid}: {each.wrong}", markup=False, highlight=False)
        if each.outbox:
            console.print(f"\n{each.pid}: the outbox holds {each.outbox}", markup=False, highlight=False)
        if each.stack:
            console.print(each.stack, markup=False, highlight=False, soft_wrap=True)
    table = Table("counter", "of all processes", box=None, header_style="bold")
    for name, count in status.counters.items():
        table.add_row(name, str(count))
    console.print("", table)


def _process(folder: Path, sheet: Sheet, alive: bool, now: float) -> Process:
    state, wrong = _judge(sheet, alive, now)
    busy = sheet.gauges[Gauge.BUSY_SINCE] > 0
    return Process(
        pid=sheet.pid,
        role=sheet.role,
        alive=alive,
        state=state,
        wrong=wrong,
        outbox=_outbox(sheet, now) if alive else "",
        facts={str(fact): text for fact, text in sheet.facts.items() if fact is not Fact.DOING or busy},
        gauges={str(gauge): value for gauge, value in sheet.gauges.items()},
        counters={str(counter): count for counter, count in sheet.counters.items()},
        stack=_stack(folder / f"{sheet.pid}{STACK}") if state == "stuck" else "",
    )


def _judge(sheet: Sheet, alive: bool, now: float) -> tuple[str, str]:
    """Return what a process does, and what is wrong with it."""
    if not alive:
        return "ended", "the consumer has ended" if sheet.role == CONSUMER else ""
    if sheet.role != CONSUMER:
        return "runs", ""
    busy = sheet.gauges[Gauge.BUSY_SINCE]
    doing = described(sheet.facts.get(Fact.DOING, ""), sheet.facts.get(Fact.HANDLING, ""))
    wrong = [f"{fact}: {text}" for fact, text in sheet.facts.items() if fact not in _PLAIN and fact is not Fact.STUCK]
    if busy and now - busy > sheet.gauges[Gauge.ROUTE_TIMEOUT]:
        return "stuck", "; ".join([f"stuck for {now - busy:.0f} s in {doing}", *wrong])
    if not busy and now - sheet.gauges[Gauge.IO_TURN] > _SILENT_S:
        return "stopped", "; ".join([f"it stands still since {_clock(sheet.gauges[Gauge.IO_TURN])}", *wrong])
    return "works" if busy else "waits", "; ".join(wrong)


def _outbox(sheet: Sheet, now: float) -> str:
    messages, size, oldest = (
        sheet.gauges[gauge] for gauge in (Gauge.OUTBOX_MESSAGES, Gauge.OUTBOX_BYTES, Gauge.OUTBOX_OLDEST)
    )
    if not messages:
        return ""
    return f"{messages:.0f} messages ({size:.0f} bytes), the oldest for {max(0.0, now - oldest):.0f} s"


def _stack(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[-_STACK_BYTES:]
    except FileNotFoundError:
        return ""


def _number(gauge: Gauge, value: float) -> str:
    return _clock(value) if gauge in _TIMES else f"{value:.0f}"


def _clock(epoch: float) -> str:
    try:
        return local_time(epoch, "%H:%M:%S") if epoch else "-"
    except (ValueError, OverflowError, OSError):  # somebody wrote nonsense into the page
        return "?"
