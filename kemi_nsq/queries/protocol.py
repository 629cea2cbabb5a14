# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries over NSQ: what a request carries, whose a reply is, and who still waits.

The protocol is that of Kamailio's kazoo module (kz_amqp.c): a request has `Msg-ID`, and in `Server-ID` the topic for
the reply; whoever answers publishes JSON with the same `Msg-ID` there. Each consumer process has a reply topic of its
own, so that the one that knows who waits is the one that gets the reply.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kemi_nsq.errors import PayloadError
from kemi_nsq.host import Suspended
from kemi_nsq.jsontext import JsonObject, JsonValue, field_text, json_object
from kemi_nsq.names import Subscription

MSG_ID, SERVER_ID = "Msg-ID", "Server-ID"
#: Ends the name of a reply topic, too. Both vanish with their last reader.
REPLY_CHANNEL = "replies#ephemeral"
#: Where a route finds the reply, or the reason why there is none.
REPLY_VARIABLE, REASON_VARIABLE = "nqR", "nqErr"
#: Why a query failed, for `$var(nqErr)`.
Reason: TypeAlias = Literal["timeout", "no nsqd", "bad payload", "no consumer", "bad reply"]
#: Queries that may wait at once in one consumer process; a further one is refused as `no consumer`.
MAX_PENDING = 20_000
_MSG_ID_LENGTH = 255
#: Characters of a topic, `#ephemeral` included (nsqd, internal/protocol/names.go).
_TOPIC_LENGTH = 64
#: Deadlines of queries that are over, which may be left in memory besides as many as wait.
_SPARE_DEADLINES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who asks, for the fields that a request carries.

    Attributes:
        node: NSQ_NODE.
        app_name: name of the application.
        app_version: its version.
    """

    node: str
    app_name: str
    app_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One query that has no reply yet.

    Attributes:
        msg_id: what the reply must carry.
        deadline: monotonic second at which it is given up; all processes of a machine share that clock.
        mailbox: name of the socket in the runtime folder that waits, or '' for a suspended transaction.
        suspended: the transaction that waits, if it does not block a process.
    """

    msg_id: str
    deadline: float
    mailbox: str = ""
    suspended: Suspended | None = None


def reply_subscription(reader: str, node: str, instance: str) -> Subscription:
    """Return the reply topic and channel of one reader; both vanish with it.

    Args:
        reader: what it is, and which of several.
        node: NSQ_NODE, for people: cut where the topic would be too long.
        instance: tells those of one node apart (`runtime.instance`).
    """
    room = _TOPIC_LENGTH - len(f"{reader}..{instance}.{REPLY_CHANNEL}")
    return Subscription(f"{reader}.{node[:room]}.{instance}.{REPLY_CHANNEL}", REPLY_CHANNEL)


def consumer_subscription(slot: int, node: str, instance: str) -> Subscription:
    """Return the reply topic and channel of a consumer process."""
    return reply_subscription(f"kamailio-{slot}", node, instance)


def request(payload: str | JsonObject, *, sender: Sender, new_id: str) -> tuple[str, dict[str, JsonValue]]:
    """Complete a request, all but its reply topic.

    Args:
        payload: the JSON object to send; what it says already is kept, its own `Msg-ID` too.
        sender: who asks.
        new_id: `Msg-ID` for a request that has none.

    Returns:
        The Msg-ID and the fields to send.

    Raises:
        PayloadError: the payload is no JSON object, or its Msg-ID cannot be one.
    """
    complete = dict(json_object(payload) if isinstance(payload, str) else payload)
    added = {MSG_ID: new_id, "Node": sender.node, "App-Name": sender.app_name, "App-Version": sender.app_version}
    for name, value in added.items():
        complete[name] = complete.get(name) or value
    msg_id = field_text(complete, MSG_ID)
    if len(msg_id) > _MSG_ID_LENGTH or not msg_id.isprintable():
        raise PayloadError(f"Msg-ID {msg_id[:40]!r} is no printable text of at most {_MSG_ID_LENGTH} characters")
    return msg_id, complete


def reply_msg_id(body: bytes) -> str:
    """Return the Msg-ID of a reply.

    Raises:
        PayloadError: the reply is no JSON object or names no query.
    """
    try:
        fields = json_object(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PayloadError("the reply is not UTF-8") from error
    msg_id = field_text(fields, MSG_ID)
    if not msg_id:
        raise PayloadError("the reply has no Msg-ID")
    return msg_id


class Pending:
    """The queries that wait, each taken once: by its reply, or by its deadline."""

    def __init__(self, limit: int = MAX_PENDING) -> None:
        self._limit = limit
        self._waiting: dict[str, Waiting] = {}
        self._deadlines: list[tuple[float, str]] = []

    def add(self, waiting: Waiting) -> Reason | None:
        """Remember a query; or say why not: there are too many, or one of this Msg-ID waits already.

        Who waits at a mailbox does nothing else: it has given up whatever it asked before.
        """
        known = self._waiting.get(waiting.msg_id)
        if known is not None and not (known.mailbox and known.mailbox == waiting.mailbox):
            return "bad payload"
        if known is None and len(self._waiting) >= self._limit:
            return "no consumer"
        self._waiting[waiting.msg_id] = waiting
        heapq.heappush(self._deadlines, (waiting.deadline, waiting.msg_id))
        return None

    def take(self, msg_id: str) -> Waiting | None:
        """Forget a query and return it, or None if it does not wait (any more)."""
        waiting = self._waiting.pop(msg_id, None)
        if len(self._deadlines) > 2 * len(self._waiting) + _SPARE_DEADLINES:
            self._deadlines = sorted(filter(self._is_current, self._deadlines))
        return waiting

    def next_deadline(self) -> float | None:
        """Return the earliest deadline, or None."""
        while self._deadlines and not self._is_current(self._deadlines[0]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now: float) -> Iterator[Waiting]:
        """Forget and return the queries whose deadline has passed."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, msg_id = heapq.heappop(self._deadlines)
            yield self._waiting.pop(msg_id)

    def _is_current(self, entry: tuple[float, str]) -> bool:
        deadline, msg_id = entry
        waiting = self._waiting.get(msg_id)
        return waiting is not None and waiting.deadline == deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """A suspended transaction that goes on: with the reply, or with the reason why there is none."""

    suspended: Suspended
    reply: str = ""
    reason: Reason | None = None
