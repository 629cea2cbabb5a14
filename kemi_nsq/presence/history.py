# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process has lately decided about states, and which watchers it has told: so that somebody can ask why.

It lives in memory, of one process, and has an end: the oldest goes first. The main thread notes what is there anyway,
which costs next to nothing; words are made of it only when somebody asks, in the thread that answers tools.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.host import Host, Level
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.memory import remember
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.packages import gist
from kemi_nsq.presence.row import Key, Row, message_id_in

#: So many decisions are kept, and the last NOTIFY of so many presentities and packages.
MOST = 2000
#: A document is kept with its decision up to so many bytes: so all of them have 4 MB at most.
_LARGEST_BODY = 2048
#: A NOTIFY is told, in the log, of so many messages that it speaks for.
_MOST_OF_ONE = 20


class What(enum.Enum):
    """What was decided about a state."""

    STORED = "stored"  #: watchers see it
    UNCHANGED = "unchanged"  #: watchers see it already; it is kept longer
    HIDDEN = "hidden"  #: stored, but no document shows it
    STALE = "stale"  #: the table had this state or a later one
    TOO_OLD = "too old"  #: NSQ_MAX_EVENT_AGE
    REFUSED = "refused"  #: the database does not take the row
    EXPIRED = "expired"  #: nobody spoke for the state any more
    RESET = "reset"  #: it was ended by its sender's reset, or by an operator


class Cause(enum.Enum):
    """Why rows are stored."""

    EVENT = enum.auto()
    EXPIRY = enum.auto()
    RESET = enum.auto()


_OF_EVENTS = {
    Change.STORED: What.STORED,
    Change.UNCHANGED: What.UNCHANGED,
    Change.HIDDEN: What.HIDDEN,
    Change.STALE: What.STALE,
}
_OF_ENDS = {Cause.EXPIRY: What.EXPIRED, Cause.RESET: What.RESET}


class Decision(NamedTuple):
    """A decision: when it fell (epoch seconds), what was done to the table or why nothing, about which row, and why."""

    at: float
    done: Change | What
    row: Row
    cause: Cause

    @property
    def what(self) -> What:
        """What was decided."""
        if isinstance(self.done, What):
            return self.done
        return _OF_ENDS.get(self.cause) or _OF_EVENTS[self.done]


class History:
    """The decisions of one process, and its NOTIFYs.

    Args:
        host: has the log.
        clock: tells the time.
    """

    def __init__(self, host: Host, clock: Clock = SYSTEM) -> None:
        self._host = host
        self._clock = clock
        #: Plain ones: to make a `Decision` of each would take longer than all the rest.
        self._decisions: deque[tuple[float, Change | What, Row, Cause]] = deque(maxlen=0)
        self._told: OrderedDict[Key, tuple[float, bool]] = OrderedDict()
        self._noted = 0
        #: Ids of the messages whose change was not told yet: only what is logged, while that is.
        self._changed: OrderedDict[Key, tuple[str, ...]] = OrderedDict()

    def begin(self) -> None:
        """Remember from now on: of a process that tools can ask, which SIP workers are not."""
        self._decisions = deque(maxlen=MOST)

    def committed(self, rows: Sequence[Row], changes: Sequence[Change | None], cause: Cause) -> None:
        """Note what a commit did: for each row its change, None for one that is to be stored again."""
        now = self._clock.wall()
        for row, change in zip(rows, changes, strict=True):
            # An end that is stale is none: another process has ended the state, or its producer has spoken again.
            if change is not None and (change is not Change.STALE or cause is Cause.EVENT):
                self._note(now, change, row, cause)
                if self._host.log_policy.events and row.topic and (change is Change.STORED or row.redelivered):
                    self._expect(row)

    def dropped(self, row: Row, what: What) -> None:
        """Note that a row was not even tried, or refused."""
        self._note(self._clock.wall(), what, row, Cause.EVENT)

    def told(self, key: Key, accepted: bool) -> None:
        """Note a NOTIFY to whoever watches a presentity, and whether the presence module took it."""
        if self._decisions.maxlen:
            remember(self._told, key, (self._clock.wall(), accepted), most=MOST)
        if self._host.log_policy.events:
            step = "told" if accepted else "not told"
            self._say_told(key, step, "NOTIFY to whoever watches it" if accepted else "NOTIFY refused; tried again")
        if accepted:
            self._changed.pop(key, None)

    def unwatched(self, keys: Collection[Key]) -> None:
        """Note that presentities were not told of because nobody watches them."""
        for key in keys if self._host.log_policy.events else ():
            self._say_told(key, "not told", "nobody watches it")
            self._changed.pop(key, None)

    def as_json(self, uri: str = "", package: str = "", most: int = MOST) -> JsonObject:
        """Return the last decisions, oldest first, and the NOTIFYs.

        Args:
            uri: of a presentity, '' for all; compared without case, as some databases do.
            package: event package, '' for all.
            most: decisions to return at most, of the last ones.
        """

        def meant(key: Key) -> bool:
            return uri.lower() in ("", key[0].lower()) and package in ("", key[1])

        # Each of these copies is one operation of Python's, which the main thread cannot come between.
        decisions, told = [Decision(*each) for each in list(self._decisions)], list(self._told.items())
        found = [each for each in decisions if meant((each.row.uri, each.row.event))]
        return {
            "noted": self._noted,
            "kept": len(decisions),
            "oldest": decisions[0].at if decisions else 0.0,
            "logs": self._host.log_policy.events,
            "decisions": [_decision_json(each) for each in found[-most:]] if most else [],
            "told": [
                {"uri": key[0], "package": key[1], "at": at, "accepted": accepted}
                for key, (at, accepted) in told
                if meant(key)
            ],
        }

    def _note(self, now: float, done: Change | What, row: Row, cause: Cause) -> None:
        if len(row.body) > _LARGEST_BODY:
            row = row._replace(body=b"")
        self._decisions.append((now, done, row, cause))
        self._noted += 1
        if self._host.log_policy.events:
            self._say_decided(Decision(now, done, row, cause))

    def _expect(self, row: Row) -> None:
        """Remember that a NOTIFY will speak for a message, with others perhaps."""
        key = row.uri, row.event
        ids = (*self._changed.get(key, ()), message_id_in(row.ruid))
        remember(self._changed, key, ids[-_MOST_OF_ONE:], most=MOST)

    def _say_told(self, key: Key, step: str, text: str) -> None:
        """Write a line for each message that a NOTIFY speaks for, or one for what came of no message."""
        uri, package = key
        for message_id in self._changed.get(key, ("",)):
            whose = f"message {message_id}" if message_id else "no message"
            fields = {"step": step, "presentity": uri, "package": package}
            about: JsonObject = fields | ({"message_id": message_id} if message_id else {})
            self._host.log_aside(Level.INFO, f"{step}: {package} of {uri}, {whose}: {text}", about)

    def _say_decided(self, decision: Decision) -> None:
        row, step = decision.row, decision.what.value
        state, about = gist(row.event, row.body) if row.body else ("?", "")
        message_id = message_id_in(row.ruid) if row.topic else ""
        whose = f"message {message_id} of {row.topic}" if message_id else "no message"
        text = f"{step}: {row.event} of {row.uri} {state} ({about}), {whose}, sender {row.sender}"
        fields = {"step": step, "presentity": row.uri, "package": row.event, "state": state, "sender": row.sender}
        named = {"message_id": message_id, "topic": row.topic} if message_id else {}
        self._host.log_aside(Level.INFO, text, fields | named)


def _decision_json(decision: Decision) -> JsonValue:
    row = decision.row
    state, about = gist(row.event, row.body) if row.body else ("?", "its document was too large to be kept here")
    return {
        "at": decision.at,
        "what": decision.what.value,
        "uri": row.uri,
        "package": row.event,
        "etag": row.etag,
        "ruid": row.ruid,
        "state": state,
        "about": about,
        "sender": row.sender,
        "topic": row.topic,
        "sent_at": row.sent_at,
        "redelivered": row.redelivered,
    }
