# SPDX-License-Identifier: GPL-2.0-or-later
"""A message in the hands of a consumer process: who has it, and what is said about it until it is answered.

The I/O thread makes a `Delivery` of it and hands it over; `Custody` says which of the two threads may answer it. While
the main thread handles it, it is a `Handled`, and `Current` lets functions that are called in its route reach it:
Kamailio is between them and the handling, so nothing can be passed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from kemi_nsq.consumer.errand import Errand
from kemi_nsq.consumer.origin import Origin
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError
from kemi_nsq.event import Event
from kemi_nsq.host import Broken, Report
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.names import Subscription
from kemi_nsq.nsq.protocol import Message
from kemi_nsq.presence.row import Row
from kemi_nsq.queries.protocol import Resume


class Delivery(NamedTuple):
    """A message and the connection that must answer for it."""

    connection_id: int
    subscription: Subscription
    message: Message

    @property
    def message_id(self) -> str:
        """The id of the message, as text."""
        return self.message.message_id.decode("ascii", "replace")

    @property
    def origin(self) -> Origin:
        """What the message is, if it is no replay."""
        return Origin(
            topic=self.subscription.topic,
            channel=self.subscription.channel,
            message_id=self.message_id,
            timestamp_ns=self.message.timestamp_ns,
            body=self.message.body,
        )


class Happening(enum.Enum):
    """What can happen besides events, by the name that its event route has (`notices.ROUTES`)."""

    MOD_INIT = "mod-init"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    UNREACHABLE = "unreachable"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that happened besides events.

    Attributes:
        happening: what.
        report: what is logged and counted of it.
        fields: what it was about, for an event route.
    """

    happening: Happening
    report: Report
    fields: JsonObject = field(default_factory=dict)


Item: TypeAlias = Delivery | Notice | Report | Resume | Errand | Broken


class Custody:
    """The messages of a consumer process that are not answered yet, and are in nobody's hands.

    Two threads decide without a lock who has a message: the main thread, whose route for it runs, or nobody, so that it
    may be given back to nsqd. A message is in a dictionary while nobody has it, and whoever takes it out has it. That
    is one operation of Python's, which no other thread can come between.

    `arrived` and `give_back` are for the I/O thread, the others for the main thread. Each thread has counts of its own,
    because to add is more than one operation; the difference of two may be old, and is good enough for a bound.

    Attributes:
        came: messages that have come so far.
    """

    def __init__(self) -> None:
        #: By identity: a message that comes again is another delivery, and one in here cannot go away.
        self._free: dict[int, Delivery] = {}
        self.came = self._came_bytes = self._begun = self._begun_bytes = 0

    @property
    def queued(self) -> int:
        """Messages in the queue between the threads, also those that were given back meanwhile."""
        return self.came - self._begun

    @property
    def queued_bytes(self) -> int:
        """Bytes of their bodies."""
        return self._came_bytes - self._begun_bytes

    def arrived(self, delivery: Delivery) -> None:
        """Note a new message, before it is handed over: the main thread must find it here."""
        self._free[id(delivery)] = delivery
        self.came += 1
        self._came_bytes += len(delivery.message.body)

    def begin(self, delivery: Delivery) -> bool:
        """Take a message from the queue; return whether it is still ours."""
        self._begun += 1
        self._begun_bytes += len(delivery.message.body)
        return self._free.pop(id(delivery), None) is not None

    def set_aside(self, delivery: Delivery) -> None:
        """Let go of a message whose route has run, while the routes of others run that are answered with it."""
        self._free[id(delivery)] = delivery

    def keep(self, delivery: Delivery) -> bool:
        """Take a message, to answer it; return whether it is still ours."""
        return self._free.pop(id(delivery), None) is not None

    def give_back(self) -> list[Delivery]:
        """Take all that nobody has: whoever does not get one any more leaves it alone."""
        taken = []
        while self._free:
            try:
                taken.append(self._free.popitem()[1])
            except KeyError:  # the main thread had the last one
                break
        return taken


class Fault(enum.Enum):
    """Whose fault it is that a message must come again."""

    OWN = enum.auto()  #: its route asked for it or raised, or a bug of ours met it
    WORLD = enum.auto()  #: the database failed


@dataclass(slots=True, kw_only=True)
class Handled:
    """One message, from its delivery to its answer.

    Attributes:
        delivery: the message.
        origin: what it was at first; None until it was looked at, or if a replay does not say so.
        event: what it says; None until it was decoded, or if it cannot be.
        route: the most specific route name of it, or '' if it could not be decoded.
        rows: what its route has published, to be written with the rows of others.
        again: whose fault it is that it must come again; None if it need not.
        doubtful: the world failed for it although it did not seem to fail for others.
        database: how the database failed, or ''.
        refused: why it is of no use, or ''.
        counter: counts the refusal; None if whoever refused it has counted and logged that.
    """

    delivery: Delivery
    origin: Origin | None = None
    event: Event | None = None
    route: str = ""
    rows: list[Row] = field(default_factory=list)
    again: Fault | None = None
    doubtful: bool = False
    database: str = ""
    refused: str = ""
    counter: Counter | None = None

    @property
    def named(self) -> str:
        """Name the message in a line of the log: by the id that it had at first, which its rows and routes have too."""
        delivery, origin = self.delivery, self.origin or self.delivery.origin
        again = "" if origin.message_id == delivery.message_id else f" (replayed as {delivery.message_id})"
        return f"message {origin.message_id} of {origin.topic}{again}"

    def about(self) -> JsonObject:
        """Return the fields of a line of the log that is about this message."""
        delivery, origin = self.delivery, self.origin or self.delivery.origin
        again = {} if origin.message_id == delivery.message_id else {"replayed_as": delivery.message_id}
        return {
            "message_id": origin.message_id,
            **again,
            "topic": origin.topic,
            "channel": origin.channel,
            "attempts": delivery.message.attempts,
            **({"route": self.route} if self.route else {}),
        }


class Current:
    """The message that the main thread has in hand, and whose route runs, if one does.

    Attributes:
        subject: the message that lines of the log are about.
    """

    def __init__(self) -> None:
        self.subject: Handled | None = None
        self._handled: Handled | None = None
        self._batch: list[Handled] | None = None

    # Called by `handling`

    def begin_batch(self) -> None:
        """Collect the rows of all messages from now on, instead of having each written at once."""
        self._batch = []

    def end_batch(self) -> None:
        """Have each row written at once again."""
        self._batch = None

    def begin(self, handled: Handled) -> None:
        """Say whose route runs now."""
        self._handled = handled
        if self._batch is not None:
            self._batch.append(handled)

    def end(self) -> None:
        """Say that no route runs."""
        self._handled = None

    # Called for the log, by any thread

    def about(self) -> JsonObject:
        """Return the fields of what lines are about now."""
        subject = self.subject
        return {} if subject is None else subject.about()

    # Called by functions of routing logic

    @property
    def event(self) -> Event | None:
        """The event of the message; None outside event routes."""
        return self._handled.event if self._handled else None

    def collect(self, row: Row) -> bool:
        """Take a row to be written with those of others; return False if it is to be written at once."""
        if self._batch is None or self._handled is None:
            return False
        self._handled.rows.append(row)
        return True

    def collected(self) -> list[Row]:
        """Return the rows that were collected so far, of this message and of those before it."""
        return [row for handled in self._batch or () for row in handled.rows]

    def refuse(self, reason: str) -> None:
        """Say that the message is of no use; whoever does has counted and logged it, or will."""
        if self._handled is not None:
            self._handled.refused = reason

    def fail(self, error: Exception) -> None:
        """Have the message come again, because of the database or, if it is not that, of a bug of ours."""
        if self._handled is None:
            return
        if isinstance(error, DatabaseError):
            self._handled.database = str(error)
        else:
            self._handled.again = Fault.OWN
