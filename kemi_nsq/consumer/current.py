# SPDX-License-Identifier: GPL-2.0-or-later
"""The message that the main thread is handling, and what its route, and functions called in it, say about it.

`handling` owns both: it says which message that is, and reads afterwards what was said. Functions that routing logic
calls have no other way to reach the message, because Kamailio is between them and the handling.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from kemi_nsq.consumer.items import Delivery
from kemi_nsq.counters import Counter
from kemi_nsq.errors import StoreError
from kemi_nsq.event import Event
from kemi_nsq.presence.row import Row


class Fault(enum.Enum):
    """Whose fault it is that a message must come again."""

    OWN = enum.auto()  #: its route asked for it or raised, or a bug of ours met it
    WORLD = enum.auto()  #: the database failed


@dataclass(slots=True, kw_only=True)
class Handled:
    """One message, from its delivery to its answer.

    Attributes:
        delivery: the message.
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
    event: Event | None = None
    route: str = ""
    rows: list[Row] = field(default_factory=list)
    again: Fault | None = None
    doubtful: bool = False
    database: str = ""
    refused: str = ""
    counter: Counter | None = None


class Current:
    """The message whose route runs, if one does."""

    def __init__(self) -> None:
        self._message: Handled | None = None
        self._batch: list[Handled] | None = None

    # Called by `handling`

    def begin_batch(self) -> None:
        """Collect the rows of all messages from now on, instead of having each written at once."""
        self._batch = []

    def end_batch(self) -> None:
        """Have each row written at once again."""
        self._batch = None

    def begin(self, message: Handled) -> None:
        """Say whose route runs now."""
        self._message = message
        if self._batch is not None:
            self._batch.append(message)

    def end(self) -> None:
        """Say that no route runs."""
        self._message = None

    # Called by functions of routing logic

    @property
    def event(self) -> Event | None:
        """The event of the message; None outside event routes."""
        return self._message.event if self._message else None

    def collect(self, row: Row) -> bool:
        """Take a row to be written with those of others; return False if it is to be written at once."""
        if self._batch is None or self._message is None:
            return False
        self._message.rows.append(row)
        return True

    def collected(self) -> list[Row]:
        """Return the rows that were collected so far, of this message and of those before it."""
        return [row for message in self._batch or () for row in message.rows]

    def refuse(self, reason: str) -> None:
        """Say that the message is of no use; whoever does has counted and logged it, or will."""
        if self._message is not None:
            self._message.refused = reason

    def fail(self, error: Exception) -> None:
        """Have the message come again, because of the database or, if it is not that, of a bug of ours."""
        if self._message is None:
            return
        if isinstance(error, StoreError):
            self._message.database = str(error)
        else:
            self._message.again = Fault.OWN
