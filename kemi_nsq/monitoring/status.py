# SPDX-License-Identifier: GPL-2.0-or-later
"""How a Kamailio is, as its processes say: `kemi-nsq status`.

Their pages are read, which works while all of Kamailio is stuck; what a process cannot say of itself, because a native
route keeps Python's lock, follows from the times in its page. Then each consumer is asked for what its page has no room
for, and nsqd for what waits there. Neither needs to answer.
"""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from kemi_nsq.clock import SYSTEM, Clock, local_time
from kemi_nsq.errors import NsqError
from kemi_nsq.monitoring.answers import Said, asked
from kemi_nsq.monitoring.depths import Depth, depths
from kemi_nsq.monitoring.health import Health, worst
from kemi_nsq.runtime.console import PATIENCE_S
from kemi_nsq.runtime.folder import STACK, sheets
from kemi_nsq.runtime.page import CONSUMER, RELAY, Fact, Gauge, Latencies, Sheet, Stage, described
from kemi_nsq.runtime.place import LOCK

#: The I/O thread of a consumer turns twice a second. A native route may hold it up until NSQ_ROUTE_TIMEOUT.
_SILENT_S = 5.0
#: What a fact means for the health; those that every process shows mean nothing.
MEANING: Mapping[Fact, Health] = {
    Fact.DATABASE: Health.CRITICAL,
    Fact.DATABASE_FILE: Health.CRITICAL,
    Fact.DEAD_LETTERS: Health.CRITICAL,
    Fact.FAILED: Health.CRITICAL,
    Fact.OUTBOX: Health.WARNING,
    Fact.RELAY: Health.WARNING,
    Fact.PAUSED: Health.WARNING,
    Fact.BACKOFF: Health.WARNING,
    Fact.DISCOVERY: Health.WARNING,
    Fact.STRANGERS: Health.WARNING,
    Fact.CLOCKS: Health.WARNING,
}
#: So much of a file of stacks is shown: its end.
_STACK_BYTES = 4000


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong."""

    health: Health
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process.

    Attributes:
        pid: its id.
        role: `consumer`, `relay`, or '' for a SIP worker.
        alive: whether it runs.
        state: what it does, in words.
        problems: what is wrong with it.
        outbox: what the outbox holds, in words, or '' if that is nothing, or is sent by another process.
        facts: what it shows.
        gauges: its numbers.
        counters: what it has counted.
        stages: seconds that the stages of an event's way took: counts by bucket, and their sum.
        stack: the last stack that it left, if it is stuck.
        said: what it says of itself when it is asked; None for one that does not, and for SIP workers.
    """

    pid: int
    role: str
    alive: bool
    state: str
    problems: Sequence[Problem]
    outbox: str
    facts: dict[str, str]
    gauges: dict[str, float]
    counters: dict[str, int]
    stages: Mapping[Stage, Latencies]
    stack: str
    said: Said | None

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        shown: dict[str, object] = {each.name: getattr(self, each.name) for each in fields(self)}
        problems = [{"health": each.health.name.lower(), "text": each.text} for each in self.problems]
        stages = {str(stage): latencies._asdict() for stage, latencies in self.stages.items()}
        return shown | {"problems": problems, "stages": stages, "said": self.said and self.said.model_dump()}

    @property
    def consuming(self) -> bool:
        """Whether it is a consumer that runs."""
        return self.alive and self.role == CONSUMER

    @property
    def relaying(self) -> bool:
        """Whether it is a relay that runs."""
        return self.alive and self.role == RELAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One Kamailio.

    Attributes:
        run_dir: its runtime folder.
        processes: its processes.
        counters: the sums of what they have counted.
        depths: what waits at nsqd for each topic and channel that is consumed, as far as is known.
        depths_known: whether every nsqd has told.
        problems: what is wrong with the whole.
    """

    run_dir: str
    processes: Sequence[Process]
    counters: dict[str, int]
    depths: Sequence[Depth]
    depths_known: bool
    problems: Sequence[Problem]

    @property
    def all_problems(self) -> Iterator[tuple[str, Problem]]:
        """What is wrong, each with where: the id of a process, or ''."""
        yield from (("", problem) for problem in self.problems)
        for process in self.processes:
            yield from ((str(process.pid), problem) for problem in process.problems)

    @property
    def health(self) -> Health:
        """How it is."""
        return worst(problem.health for _, problem in self.all_problems)

    @property
    def line(self) -> str:
        """How it is in a line, with numbers for who draws them, as monitoring plug-ins write both."""
        consuming = [process for process in self.processes if process.consuming]
        told = "; ".join(f"{where}: {each.text}" if where else each.text for where, each in self.all_problems)
        said = told or f"{len(consuming)} consumer{'s' * (len(consuming) != 1)}, {self._last(consuming)}"
        return f"KEMI-NSQ {self.health.name} - {said.replace('|', '/')} | {numbers_of([self])}"

    def _last(self, consuming: Iterable[Process]) -> str:
        last = max((process.gauges[Gauge.LAST_EVENT] for process in consuming), default=0.0)
        return f"last event at {clock_text(last)}" if last else "no event yet"

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "run_dir": self.run_dir,
            "health": self.health.name.lower(),
            "line": self.line,
            "problems": [f"{where}: {problem.text}" if where else problem.text for where, problem in self.all_problems],
            "depths": [depth._asdict() for depth in self.depths],
            "counters": self.counters,
            "processes": [process.as_json() for process in self.processes],
        }


def numbers_of(looked: Sequence[Status]) -> str:
    """Return what a monitoring plug-in writes behind its first line, for who draws it, of one Kamailio or several."""
    received = sum(each.counters.get("received", 0) for each in looked)
    consuming = (process for each in looked for process in each.processes if process.consuming)
    in_flight = sum(process.gauges[Gauge.IN_FLIGHT] for process in consuming)
    # U is what plug-ins write for what nobody knows.
    known = all(each.depths_known for each in looked)
    waiting = sum(depth.messages for each in looked for depth in each.depths) if known else "U"
    return f"received={received}c in_flight={in_flight:.0f} lag={waiting}"


def folders(run_dir: Path) -> list[Path]:
    """Return the runtime folders of all Kamailio that have theirs beside this one, which itself need not be one."""
    try:
        found = [each for each in sorted(run_dir.parent.iterdir()) if (each / LOCK).is_file()]
    except OSError:
        found = []
    return [run_dir, *(each for each in found if each != run_dir)] if run_dir in found or not found else found


def look(folder: Path, now: float, *, within_s: float = 10.0, clock: Clock = SYSTEM) -> Status:
    """Look at the Kamailio that has a runtime folder.

    Args:
        folder: the runtime folder.
        now: epoch seconds.
        within_s: seconds that may be spent asking consumers and nsqd; who is not asked any more does not answer.
        clock: measures them.

    Raises:
        RunFolderError: it is not there, or may not be read.
    """
    until = clock.monotonic() + within_s

    def left_s() -> float:
        return max(_LEAST_S, until - clock.monotonic())

    processes = [_process(folder, sheet, alive, now, left_s) for sheet, alive in sheets(folder)]
    sums: Multiset[str] = Multiset()
    for process in processes:
        sums.update(process.counters)
    said = [process.said for process in processes if process.said]
    found, unknown = depths(said, left_s)
    return Status(
        run_dir=str(folder),
        processes=processes,
        counters=dict(sums),
        depths=found,
        depths_known=bool(found) and not unknown,
        problems=[*_of_all(processes, said), *(Problem(Health.WARNING, text) for text in unknown)],
    )


def clock_text(epoch: float, pattern: str = "%H:%M:%S") -> str:
    """Write an epoch second as the operator's clock shows it, `-` for never, `?` for nonsense that somebody wrote."""
    try:
        return local_time(epoch, pattern) if epoch else "-"
    except (ValueError, OverflowError, OSError):
        return "?"


def _process(folder: Path, sheet: Sheet, alive: bool, now: float, left_s: Callable[[], float]) -> Process:
    state, problems = _judge(sheet, alive, now)
    busy = sheet.gauges[Gauge.BUSY_SINCE] > 0
    said: Said | None = None
    if alive and sheet.role == CONSUMER:
        try:
            said = asked(Said, folder, sheet.pid, "status", timeout_s=min(PATIENCE_S, left_s()))
            problems += _of_connections(said)
        except NsqError as error:
            if state in _ANSWERING:
                problems.append(Problem(Health.WARNING, str(error)))
    return Process(
        pid=sheet.pid,
        role=sheet.role,
        alive=alive,
        state=state,
        problems=problems,
        outbox=_outbox(sheet, now) if alive else "",
        facts={str(fact): text for fact, text in sheet.facts.items() if fact is not Fact.DOING or busy},
        gauges={str(gauge): value for gauge, value in sheet.gauges.items()},
        counters={str(counter): count for counter, count in sheet.counters.items()},
        stages=sheet.stages,
        stack=_stack(folder / f"{sheet.pid}{STACK}") if state == "stuck" else "",
        said=said,
    )


#: Who is asked at all has so much time.
_LEAST_S = 0.05
#: In these states a consumer has nothing that should keep it from answering.
_ANSWERING = ("works", "waits")


def _of_all(processes: Sequence[Process], said: Iterable[Said]) -> Iterator[Problem]:
    """Tell what is wrong with the consumers together."""
    if not any(each.consuming for each in processes):
        yield Problem(Health.CRITICAL, "no consumer runs")
    if len({each.script.version for each in said}) > 1:
        yield Problem(Health.WARNING, "the consumers have different versions of the Python script; see kemi-nsq reload")


def _of_connections(said: Said) -> list[Problem]:
    """Tell which topics have no connection that nsqd has accepted."""
    there = {f"{each.topic}:{each.channel}" for each in said.connections if each.subscribed}
    missing = [each for each in said.subscriptions if each not in there]
    return [Problem(Health.CRITICAL, f"no nsqd gives {each}; see NSQ_NSQD_TCP_ADDRESS") for each in missing]


def _judge(sheet: Sheet, alive: bool, now: float) -> tuple[str, list[Problem]]:
    """Return what a process does, and what is wrong with it."""
    if not alive:
        return "ended", [Problem(Health.CRITICAL, f"the {sheet.role} has ended")] if sheet.role else []
    if not sheet.role:
        return "runs", []
    busy = sheet.gauges[Gauge.BUSY_SINCE]
    wrong = [Problem(MEANING[fact], f"{fact}: {text}") for fact, text in sheet.facts.items() if fact in MEANING]
    if busy and now - busy > sheet.gauges[Gauge.ROUTE_TIMEOUT]:
        doing = described(sheet.facts.get(Fact.DOING, ""), sheet.facts.get(Fact.HANDLING, ""))
        return "stuck", [Problem(Health.CRITICAL, f"stuck for {now - busy:.0f} s in {doing}"), *wrong]
    turn = sheet.gauges[Gauge.IO_TURN if sheet.role == CONSUMER else Gauge.MAIN_TURN]
    if not busy and now - turn > _SILENT_S:
        since = clock_text(turn)
        return "stopped", [Problem(Health.CRITICAL, f"it stands still since {since}"), *wrong]
    return "works" if busy else "waits", wrong


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
