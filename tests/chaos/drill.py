# SPDX-License-Identifier: GPL-2.0-or-later
"""One fault under load, the wait until everything came to rest, and the checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise, product

from tests.chaos.checks import Stored, judge_table
from tests.chaos.faults import FAULTS
from tests.chaos.lamps import Lamps, lamps
from tests.chaos.ledger import Ledger, Record
from tests.chaos.load import Load, Mouth
from tests.chaos.outcome import Outcome
from tests.chaos.stage import NAMES, Stage
from tests.chaos.traffic import Traffic

#: How the time of a fault is shared out; what is left is for coming to rest and for the checks.
_BEFORE, _DURING, _AFTER = 0.12, 0.38, 0.12
#: It must come to rest within this time. One delivery that nsqd must repeat takes 10 s, one that was given back more.
_REST_S = 120.0
#: At rest nothing has changed for so long.
_QUIET_S = 2.5
_LOOK_S = 0.1
#: Lines of what is wrong that are kept of each kind.
_LINES = 8

#: Name of a nsqd, and a channel.
Where = tuple[str, str]


class Drill:
    """All faults, one after the other, on the same servers with the same traffic.

    Args:
        stage: the servers.
        seed: chooses the traffic.
        rate: events a second.
        seconds: how long one fault takes, about.
        say: gets what happens, in words.
        pause: waits for so many seconds, and raises KeyboardInterrupt after Ctrl-C.
    """

    def __init__(  # noqa: PLR0913  # what to do, and two ways to whoever looks on
        self,
        stage: Stage,
        *,
        seed: int,
        rate: float,
        seconds: float,
        say: Callable[[str], None],
        pause: Callable[[float], None],
    ) -> None:
        self._stage, self._rate, self._seconds, self._say, self._pause = stage, rate, seconds, say, pause
        self._traffic, self._ledger = Traffic(seed), Ledger()
        self._mouths = [Mouth(name, nsqd) for name, nsqd in stage.nsqds.items()]

    def run(self, fault: str) -> Outcome:
        """Let one fault happen, and check what came of it."""
        self._ledger.turn()
        with lamps(self._stage.nodes) as phones:
            began = time.monotonic()
            backlog = Backlog(self._stage.busy, list(product(self._stage.nsqds, NAMES)))
            with self._load():
                self._strike(fault, backlog)
                self._wait(_AFTER, backlog)
            ended = time.monotonic()
            self._say(f"{fault}: the load has ended, waiting for rest")
            rested = self._rest(phones, backlog)
            outcome = self._check(fault, phones)
            gap_s = max(longest_gap(began, phones.told(name), ended) for name in NAMES)
        recovery_s = None if fault == "none" else backlog.empty_after_s
        notes = [*outcome.notes, *([] if rested else [f"not at rest after {_REST_S:g} s: {backlog.left}"])]
        return outcome.with_times(gap_s=gap_s, recovery_s=recovery_s, rested=rested, notes=notes)

    def _load(self) -> Load:
        return Load(self._traffic, self._ledger, self._mouths, self._rate)

    def _strike(self, fault: str, backlog: Backlog) -> None:
        self._say(f"{fault}: load")
        self._wait(_BEFORE)
        self._say(f"{fault}: the fault begins")
        with FAULTS[fault](self._stage):
            self._wait(_DURING)
            self._say(f"{fault}: the fault ends")
            backlog.begin()

    def _wait(self, share: float, backlog: Backlog | None = None) -> None:
        deadline = time.monotonic() + share * self._seconds
        while (left := deadline - time.monotonic()) > 0:
            if backlog is not None:
                backlog.look()
            self._pause(min(left, _LOOK_S))

    def _rest(self, phones: Lamps, backlog: Backlog) -> bool:
        """Wait until nothing waits in nsqd and nothing changes; return whether that came true."""
        began = changed = time.monotonic()
        seen: object = None
        while time.monotonic() - began < _REST_S:
            empty = backlog.look()
            found = [phones.count(), *(node.trace() for node in self._stage.nodes)]
            if not empty or found != seen:
                changed, seen = time.monotonic(), found
            if time.monotonic() - changed > _QUIET_S:
                return True
            self._pause(_LOOK_S)
        return False

    def _check(self, fault: str, phones: Lamps) -> Outcome:
        ledger = self._ledger
        self._stage.read_dead_letters()
        tables = {node.name: self._judge(node.name) for node in self._stage.nodes}
        dark = phones.wrong(ledger)
        phones.subscribe_again()
        still_dark = phones.wrong(ledger)
        lost = {record.said.sequence: record for table in tables.values() for record in table.lost}
        dead = {record.said.sequence for table in tables.values() for record in table.dead} - set(lost)
        notes = [f"row at {name}: {each}" for name, table in tables.items() for each in table.wrong.values()]
        notes = [*notes[:_LINES], *(_lost(record) for record in list(lost.values())[:_LINES]), *dark[:_LINES]]
        notes += [f"after SUBSCRIBE {each}" for each in still_dark if each not in dark][:_LINES]
        outcome = Outcome(
            fault=fault,
            accepted=ledger.accepted,
            uncertain=ledger.uncertain,
            dead=len(dead),
            lost=len(lost),
            rows_wrong=sum(len(table.wrong) for table in tables.values()),
            lamps=len(phones),
            lamps_wrong=len(dark),
            lamps_wrong_after=len(still_dark),
            notes=(*notes, *phones.notes()[:_LINES]),
        )
        self._mend(list(tables.values()))
        return outcome

    def _judge(self, name: str) -> Stored:
        node = next(each for each in self._stage.nodes if each.name == name)
        dead = {sequence for where, sequence, _ in self._stage.dead if where == name}
        return judge_table(self._ledger, node.rows(), dead, now=time.monotonic())

    def _mend(self, tables: Sequence[Stored]) -> None:
        """Say again what is wrong in a table, so that the next fault is judged by itself."""
        for thing in {thing for table in tables for thing in table.wrong}:
            records = self._ledger.things.get(thing)
            again = self._traffic.again(records[-1].said) if records else self._traffic.end(thing)
            self._load().say([again])


class Backlog:
    """What waits in nsqd, and when all that waited at the end of a fault had been handled.

    Load goes on meanwhile, so each channel of each nsqd counts as having come that far when it was empty once, with its
    consumer there.

    Args:
        busy: returns in words what is left to do, by nsqd and channel; nothing for those that have nothing to do.
        everywhere: each nsqd with each channel.

    Attributes:
        left: what was left to do at the last look.
        empty_after_s: the time from the end of the fault until then.
    """

    def __init__(self, busy: Callable[[], Mapping[Where, str]], everywhere: Collection[Where]) -> None:
        self._busy, self._everywhere = busy, everywhere
        self._began = 0.0
        self._not_yet = set(everywhere)
        self.left: Mapping[Where, str] = {}
        self.empty_after_s: float | None = None

    def begin(self) -> None:
        """The fault ends now."""
        self._began = time.monotonic()
        self._not_yet = set(self._everywhere)

    def look(self) -> bool:
        """Look at all nsqd, which must be up, and return whether nothing waits in any."""
        self.left = self._busy()
        self._not_yet &= self.left.keys()
        if not self._not_yet and self.empty_after_s is None:
            self.empty_after_s = time.monotonic() - self._began
        return not self.left


def _lost(record: Record) -> str:
    said = record.said
    return f"lost: {said.thing} {said.state}, event {said.sequence}, which {record.nsqd} took"


def longest_gap(began: float, moments: Sequence[float], ended: float) -> float:
    """Return the longest time without any of the moments that began between two others; it may end after them."""
    points = [began, *moments]
    if points[-1] < ended:
        points.append(ended)
    return max((later - one for one, later in pairwise(points) if one < ended), default=0.0)
