# SPDX-License-Identifier: GPL-2.0-or-later
"""The model: what was said and what nsqd answered, and so what must be stored and shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.chaos.traffic import ENDED, Said, Thing


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event that was published once.

    Attributes:
        said: the event.
        accepted: nsqd answered OK. Without it nobody knows whether nsqd has the event.
        nsqd: which one it was sent to.
        at: when it was sent, seconds of `time.monotonic()`.
    """

    said: Said
    accepted: bool
    nsqd: str
    at: float


@dataclass(slots=True)
class Ledger:
    """All records, in their order.

    Attributes:
        things: what was said of each thing that is still of interest.
        accepted: how many events were accepted since the last `turn`.
        uncertain: how many got no answer since then.
    """

    things: dict[Thing, list[Record]] = field(default_factory=dict)
    accepted: int = 0
    uncertain: int = 0
    _since: int = 0

    def add(self, record: Record) -> None:
        """Write down what was said."""
        self.things.setdefault(record.said.thing, []).append(record)
        self.accepted += record.accepted
        self.uncertain += not record.accepted

    def allowed(self, thing: Thing) -> set[str]:
        """Return what may be shown of a thing: the last accepted state, or one after it that got no answer."""
        records = self.things[thing]
        last = max((place for place, record in enumerate(records) if record.accepted), default=-1)
        if last < 0:
            return {record.said.state for record in records} | {_nothing(thing)}
        return {record.said.state for record in records[last:]}

    def of(self, user: str, package: str) -> list[Thing]:
        """Return the things of a presentity."""
        return [thing for thing in self.things if (thing.user, thing.package) == (user, package)]

    def fresh(self, record: Record) -> bool:
        """Whether an event was said since the last `turn`."""
        return record.said.sequence > self._since

    def turn(self) -> None:
        """Begin a new count: forget the calls that have ended, and keep the last record of everything else."""
        self._since = max((records[-1].said.sequence for records in self.things.values()), default=self._since)
        self.accepted = self.uncertain = 0
        self.things = {
            thing: records[-1:]
            for thing, records in self.things.items()
            if thing.package != "dialog" or self.allowed(thing) != {ENDED}
        }


def _nothing(thing: Thing) -> str:
    """Return how a thing looks that nobody knows of."""
    return ENDED if thing.package == "dialog" else ""
