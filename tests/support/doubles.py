# SPDX-License-Identifier: GPL-2.0-or-later
"""Stands for parts of the package in tests of others: remembers what it was told, or fails as a test says.

mypy holds each against the class or protocol that it stands for; tests/integration/test_support_doubles.py holds
the behaviour against the real thing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kemi_nsq.consumer.message import Delivery
from kemi_nsq.errors import ConnectionLost, NsqdRefused, OutboxError
from kemi_nsq.host import Suspended
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.nsq.outbox import Kept, Outbox
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Batch, Outgoing
from kemi_nsq.presence.row import Row
from kemi_nsq.presence.table import PresentityTable, Saved
from kemi_nsq.queries.asker import Asker, Query
from kemi_nsq.relay.handover import Handover
from tests.support.deliveries import again
from tests.support.settings import settings

FIN, REQ = "FIN", "REQ"


class FakePublisher(Publisher):
    """A publisher without nsqd.

    Args:
        failure: what publishing and a trial raise; None if they succeed.
        times: so often, and then they succeed.

    Attributes:
        failure: as above; a test may change it.
        wrong: bodies of messages that are wrong, which spoil each batch that has them.
        sent: the messages that were taken, those of a batch one by one.
        batches: how many messages each call had that was taken.
    """

    def __init__(self, failure: Exception | None = None, *, times: float = math.inf) -> None:
        super().__init__(settings())
        self.failure = failure
        self.wrong: set[bytes] = set()
        self.sent: list[Outgoing] = []
        self.batches: list[int] = []
        self._times = times

    def publish(self, message: Outgoing | Batch, *, until: float = math.inf) -> None:
        """Take a message, or several, or fail."""
        self.trial()
        each = (
            [Batch(message.topic, [one]).only() for one in message.sized] if isinstance(message, Batch) else [message]
        )
        if any(one.body in self.wrong for one in each):
            raise NsqdRefused("E_BAD_MESSAGE", "wrong", fatal=True)
        self.sent += each
        self.batches.append(len(each))

    def trial(self) -> None:
        """Fail if publishing does."""
        if self.failure is not None and self._times:
            self._times -= 1
            raise self.failure


class FakeOutbox(Outbox):
    """An outbox without a file.

    Attributes:
        failure: what keeping a message raises; None if it succeeds.
        kept: the messages, the oldest first.
    """

    def __init__(self, failure: OutboxError | None = None) -> None:
        super().__init__("", max_messages=0, max_bytes=0, say=print)
        self.failure = failure
        self.kept: list[Outgoing] = []

    def keep(self, message: Outgoing) -> None:
        """Keep a message, or fail."""
        if self.failure is not None:
            raise self.failure
        self.kept.append(message)

    def oldest(self) -> Kept | None:
        """Return the first message."""
        return Kept(row_id=1, kept=0.0, message=self.kept[0]) if self.kept else None

    def remove(self, kept: Kept) -> None:
        """Take out the first message."""
        del self.kept[0]


class FakeHandover(Handover):
    """A connection to a relay that is not there.

    Attributes:
        failure: what handing over raises; None if it succeeds.
        given: topic and body of each message.
    """

    def __init__(self, failure: ConnectionLost | None = None) -> None:
        super().__init__(None, 0.0)
        self.failure = failure
        self.given: list[tuple[str, bytes]] = []

    def put(self, topic: str, body: bytes) -> None:
        """Take a message, or fail."""
        if self.failure is not None:
            raise self.failure
        self.given.append((topic, body))


class FakeAsker(Asker):
    """An asker without nsqd and consumer.

    Attributes:
        failure: what asking and preparing raise; None if they succeed.
        later_failure: what `ask_later` raises.
        sends: what `ask_later` returns.
        reply: what `ask` returns.
        asked: topic, payload and timeout of each query.
        later: topic and transaction of each query that was to be answered later.
    """

    def __init__(self) -> None:
        super().__init__(settings(), FakePublisher(), None, lambda: None)
        self.failure: Exception | None = None
        self.later_failure: Exception | None = None
        self.sends = True
        self.reply = '{"Msg-ID":"1"}'
        self.asked: list[tuple[str, str | JsonObject, float]] = []
        self.later: list[tuple[str, Suspended]] = []

    def ask(self, topic: str, payload: str | JsonObject, timeout_s: float) -> str:
        """Return the reply, or fail."""
        self.asked.append((topic, payload, timeout_s))
        if self.failure is not None:
            raise self.failure
        return self.reply

    def prepare(self, topic: str, payload: str | JsonObject, timeout_s: float) -> Query:
        """Return a query, or fail."""
        self.ask(topic, payload, timeout_s)
        return Query(topic=topic, msg_id="1", body=b"", deadline=0.0, slot=0)

    def ask_later(self, query: Query, suspended: Suspended) -> bool:
        """Remember a query, or fail."""
        if self.later_failure is not None:
            raise self.later_failure
        self.later.append((query.topic, suspended))
        return self.sends


@dataclass
class FakeAnswers:
    """Who answers nsqd: no message is given back meanwhile.

    Attributes:
        given: the answers in order: message id, FIN or REQ, delay in ms.
        finished: the messages that are done.
        requeued: the deliveries that come again.
        flushed: how many answers have left.
    """

    given: list[tuple[str, str, int]] = field(default_factory=list)
    finished: list[Delivery] = field(default_factory=list)
    requeued: list[Delivery] = field(default_factory=list)
    flushed: int = 0

    def begin(self, delivery: Delivery) -> bool:
        """Give the message."""
        return True

    keep = begin

    def set_aside(self, delivery: Delivery) -> None:
        """Leave it, as nobody gives it back."""

    def finish(self, delivery: Delivery) -> None:
        """Remember FIN."""
        self.given.append((delivery.message.message_id.decode(), FIN, 0))
        self.finished.append(delivery)

    def requeue(self, delivery: Delivery, delay_ms: int) -> None:
        """Remember REQ."""
        self.given.append((delivery.message.message_id.decode(), REQ, delay_ms))
        self.requeued.append(again(delivery))

    def flush(self) -> None:
        """Remember how many left."""
        self.flushed = len(self.given)

    settle = flush


class PickyTable(PresentityTable):
    """A real table that takes no rows of some users, and none that come with them.

    Args:
        path: the SQLite file.
        users: theirs.
        failure: what storing them raises.

    Attributes:
        users: as above; a test may change it.
        calls: how often rows were to be stored.
    """

    def __init__(self, path: Path, *users: str, failure: Exception) -> None:
        super().__init__(f"sqlite+pysqlite:///{path}", "presentity")
        self.users = set(users)
        self.failure = failure
        self.calls = 0

    def save_all(self, rows: Sequence[Row]) -> Saved:
        """Store rows, or fail."""
        self.calls += 1
        if any(row.username in self.users for row in rows):
            raise self.failure
        return super().save_all(rows)
