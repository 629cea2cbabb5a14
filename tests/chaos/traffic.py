# SPDX-License-Identifier: GPL-2.0-or-later
"""What producers say: many short calls of few people, some long calls, presence and mailboxes. No clock, no socket.

A seed gives the same events in the same order, whatever becomes of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.chain import DOMAIN, event

#: Half of all calls are of the busy ones, as of a queue's or a reception's number.
BUSY = ("busy0", "busy1")
QUIET = tuple(f"quiet{number}" for number in range(20))
PEOPLE = (*BUSY, *QUIET)

ENDED = "terminated"
#: The ways of a call: answered, answered after more signalling, not answered.
_WAYS = (("early", "confirmed", ENDED), ("trying", "early", "confirmed", ENDED), ("early", ENDED))
#: The word of an event, and the note that a watcher is shown.
NOTES: Mapping[str, str] = {"online": "Available", "busy": "Busy", "away": "Away", "dnd": "Do not disturb"}
#: Field of the events that orders them: the producer's, as the clocks of three nsqd are not one.
ORDER_FIELD = "Seq"
#: Calls at a time.
_SHORT, _LONG = 12, 6
#: Shares of all events.
_PRESENCE, _MAILBOX, _LONG_CALL = 0.1, 0.2, 0.22


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """What has a state: a call, somebody's presence, somebody's mailbox.

    Attributes:
        user: the presentity.
        package: the event package.
        name: the Call-ID, '' for what a user has one of.
    """

    user: str
    package: str
    name: str = ""

    def __str__(self) -> str:
        """Name it in messages."""
        return f"{self.user} {self.name or self.package}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One event.

    Attributes:
        thing: what it is about.
        state: what a watcher is shown of it: a call's state, a note, or new and saved messages as `2/0`.
        sequence: its place among all events.
    """

    thing: Thing
    state: str
    sequence: int

    @property
    def body(self) -> bytes:
        """The JSON of the event."""
        fields: dict[str, str | int] = {ORDER_FIELD: self.sequence}
        match self.thing.package:
            case "dialog":
                fields |= {"To": f"sip:somebody@{DOMAIN}", "Call_ID": self.thing.name, "State": self.state}
            case "presence":
                fields |= {"State": next(word for word, note in NOTES.items() if note == self.state)}
            case _:
                new, saved = map(int, self.state.split("/"))
                fields |= {"Messages_New": new, "Messages_Saved": saved}
        return event(self.thing.package, self.thing.user, **fields)


def sequence_in(body: str) -> int:
    """Return the place of an event among all."""
    return int(json.loads(body)[ORDER_FIELD])


class Traffic:
    """The events, one after the other.

    Args:
        seed: chooses them.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._sequence = self._calls = 0
        self._short: list[tuple[Thing, list[str]]] = []
        self._long: list[Thing] = []
        self._last: dict[Thing, str] = {}

    def next(self) -> Said:
        """Return the next event."""
        roll = self._chance.random()
        if roll < _PRESENCE:
            return self._another(Thing(user=self._somebody(), package="presence"), tuple(NOTES.values()))
        if roll < _MAILBOX:
            counts = tuple(f"{new}/{new % 3}" for new in range(5))
            return self._another(Thing(user=self._somebody(), package="message-summary"), counts)
        return self._long_call() if roll < _LONG_CALL else self._short_call()

    def again(self, said: Said) -> Said:
        """Return an event that says the same, later."""
        return self._say(said.thing, said.state)

    def end(self, thing: Thing) -> Said:
        """Return an event that ends a call."""
        self._long = [each for each in self._long if each != thing]
        return self._say(thing, ENDED)

    def hang_up(self) -> Said | None:
        """Return an event that ends one of the short calls, None if there are none."""
        return self.end(self._short.pop()[0]) if self._short else None

    def _short_call(self) -> Said:
        if len(self._short) < _SHORT:
            self._short.append((self._new_call(), list(self._chance.choice(_WAYS))))
            place = len(self._short) - 1
        else:
            place = self._chance.randrange(len(self._short))
        call, ahead = self._short[place]
        state = ahead.pop(0)
        if not ahead:
            del self._short[place]
        return self._say(call, state)

    def _long_call(self) -> Said:
        if len(self._long) < _LONG:
            self._long.append(call := self._new_call())
            return self._say(call, "confirmed")
        return self.end(self._chance.choice(self._long))

    def _new_call(self) -> Thing:
        self._calls += 1
        user = self._chance.choice(BUSY if self._chance.random() < 0.5 else QUIET)
        return Thing(user=user, package="dialog", name=f"call-{self._calls}")

    def _somebody(self) -> str:
        return self._chance.choice(PEOPLE)

    def _another(self, thing: Thing, states: tuple[str, ...]) -> Said:
        """Say something that differs from what was said last: then the state tells which event is shown."""
        state = self._chance.choice([each for each in states if each != self._last.get(thing)])
        self._last[thing] = state
        return self._say(thing, state)

    def _say(self, thing: Thing, state: str) -> Said:
        self._sequence += 1
        return Said(thing=thing, state=state, sequence=self._sequence)
