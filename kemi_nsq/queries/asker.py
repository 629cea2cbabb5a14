# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking over NSQ from any process: register the query at a consumer's reply desk, publish, wait for the letter."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import orjson

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.errors import (
    ConnectionLost,
    NsqdRefused,
    NsqError,
    QueryFailed,
    RunFolderError,
    TransientError,
    UsageError,
)
from kemi_nsq.host import Suspended
from kemi_nsq.jsontext import JsonObject, JsonValue, encode
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.queries.desk import EMPTY_LETTER, desk_name
from kemi_nsq.queries.postbox import Postbox
from kemi_nsq.queries.protocol import SERVER_ID, Sender, Waiting, consumer_subscription, request
from kemi_nsq.runtime.place import SOCKET, Place
from kemi_nsq.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query that can be sent.

    Attributes:
        topic: where a responder listens.
        msg_id: what the reply will carry.
        body: the request.
        deadline: monotonic second at which it is given up.
        slot: the consumer process that will take the reply.
    """

    topic: str
    msg_id: str
    body: bytes
    deadline: float
    slot: int


class Asker:
    """Sends queries and waits for their replies. Opens nothing before the first query.

    Args:
        settings: NSQ_NODE, NSQ_CONSUMERS and the rest.
        publisher: publishes the requests.
        place: the runtime folder, where the consumers' sockets are; without one nobody takes a reply.
        late: is called for each letter that is of no use: its query was given up, or another user wrote it.
        clock: tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        place: Place | None,
        late: Callable[[], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._place = place
        self._late = late
        self._clock = clock
        self._settings = settings
        self._publisher = publisher
        self._sender = Sender(node=settings.node, app_name="kemi-nsq", app_version=version("kemi-nsq"))
        self._postbox: Postbox | None = None

    def ask(self, topic: str, payload: str | JsonObject, timeout_s: float) -> str:
        """Publish a request and wait for its reply.

        Args:
            topic: where a responder listens.
            payload: a JSON object.
            timeout_s: seconds until the whole is given up.

        Returns:
            The reply, JSON text.

        Raises:
            PayloadError: the payload is no JSON object.
            ConnectionLost, NsqdRefused: no nsqd took the request.
            QueryFailed: no reply came in time, or none that can be used.
        """
        deadline = self._clock.monotonic() + timeout_s
        msg_id, fields = request(payload, sender=self._sender, new_id=self._new_id())
        # Before the request leaves: the consumer, another process, must know the query when its reply comes. The
        # deadline means the same there: all processes of a machine share the monotonic clock (clock_gettime(2)).
        slot = self._reach(orjson.dumps(Waiting(msg_id=msg_id, deadline=deadline, mailbox=_own_name())))
        try:
            self._publisher.publish(Outgoing(topic=topic, body=self._body(fields, slot)), until=deadline)
        except NsqError as error:
            self._withdraw(slot, msg_id, failure_reason(error))
            raise
        return self._wait(msg_id, deadline)

    def prepare(self, topic: str, payload: str | JsonObject, timeout_s: float) -> Query:
        """Check everything that `ask_later` needs, before a transaction is suspended for it.

        Raises:
            PayloadError: the payload is no JSON object.
            QueryFailed: no consumer process is there to take the reply.
        """
        msg_id, fields = request(payload, sender=self._sender, new_id=self._new_id())
        deadline = self._clock.monotonic() + timeout_s
        slot = self._reach(EMPTY_LETTER)
        return Query(topic=topic, msg_id=msg_id, body=self._body(fields, slot), deadline=deadline, slot=slot)

    def ask_later(self, query: Query, suspended: Suspended) -> bool:
        """Publish a request whose reply, or failure, resumes a suspended transaction in a consumer process.

        Returns:
            Whether the request left; if not, the transaction goes on with the reason.

        Raises:
            QueryFailed: the consumer process does not take the query, and will not resume the transaction.
        """
        waiting = Waiting(msg_id=query.msg_id, deadline=query.deadline, suspended=suspended)
        if not self._post(query.slot, orjson.dumps(waiting)):
            raise QueryFailed("no consumer")
        try:
            self._publisher.publish(Outgoing(topic=query.topic, body=query.body), until=query.deadline)
        except TransientError as error:
            self._withdraw(query.slot, query.msg_id, failure_reason(error))
            return False
        return True

    def _wait(self, msg_id: str, deadline: float) -> str:
        """Return the reply to `msg_id`; letters of queries that were given up earlier are passed over."""
        while (left_s := deadline - self._clock.monotonic()) > 0:
            letter = self._postbox.receive(left_s) if self._postbox else None
            if letter is None:
                continue
            head, _, body = letter.partition(b"\n")
            said = orjson.loads(head)
            if said["msg_id"] != msg_id:
                self._late()
                continue
            if said["reason"] is not None:
                raise QueryFailed(said["reason"])
            return body.decode("utf-8")
        raise QueryFailed("timeout")

    def _new_id(self) -> str:
        return str(uuid.UUID(bytes=self._clock.entropy(16), version=4))

    def _withdraw(self, slot: int, msg_id: str, reason: str) -> None:
        """Take back a query whose request did not leave."""
        self._post(slot, orjson.dumps({"failed": reason, "msg_id": msg_id}))

    def _body(self, fields: dict[str, JsonValue], slot: int) -> bytes:
        instance = self._place.instance if self._place else ""
        # A reply to another topic would not come here, so this field is not the caller's to choose.
        topic = consumer_subscription(slot, self._settings.node, instance).topic
        return encode({**fields, SERVER_ID: topic})

    def _reach(self, letter: bytes) -> int:
        """Send a letter to a consumer process, and return its slot. Workers spread over the consumers by their pid."""
        for _ in range(2):
            for turn in range(self._settings.consumers):
                slot = (os.getpid() + turn) % self._settings.consumers
                if self._post(slot, letter):
                    return slot
            if not self._find_again():
                break
        raise QueryFailed("no consumer")

    def _post(self, slot: int, letter: bytes) -> bool:
        try:
            # The consumer may be in a route that holds Python's lock, and many may ask at once.
            self._box().send(desk_name(slot), letter, wait=True)
        except ConnectionLost:
            return False
        return True

    def _find_again(self) -> bool:
        """Whether the runtime folder is another one now: it was removed, and a consumer has made it again, say."""
        try:
            return self._place is not None and self._place.restore()
        except RunFolderError:  # which a consumer tells
            return False

    def _box(self) -> Postbox:
        """Return the socket of this process, which must be there: a reply comes to it.

        Raises:
            ConnectionLost: it cannot be made.
        """
        if self._place is None:
            raise ConnectionLost("there is no runtime folder")
        if self._postbox is None or self._postbox.name != _own_name():  # a script may ask before the fork
            self._postbox = Postbox(self._place, _own_name(), lambda _user: self._late())
        if not self._postbox.is_there:
            self._postbox.open()
        return self._postbox


def failure_reason(error: NsqError) -> str:
    """Return the word for `$var(nqErr)`. What nsqd itself refuses is the message."""
    if isinstance(error, QueryFailed):
        return error.reason
    return "bad payload" if isinstance(error, UsageError | NsqdRefused) else "no nsqd"


def _own_name() -> str:
    return f"{os.getpid()}{SOCKET}"
