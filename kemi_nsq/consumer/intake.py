# SPDX-License-Identifier: GPL-2.0-or-later
"""What a consumer process takes from nsqd, and what it answers: all that is decided, and nothing that waits.

There is no socket, thread or clock in here. Whoever has those says what happened and at which monotonic second, closes
a connection for which a method raised, and writes what `data_to_send` returns. One turn is, in this order:

1. `receive_data` for each connection that has something to read;
2. `begin_turn`;
3. what others asked for meanwhile: `open`, `finish`, `requeue`, `pause`, `resume`;
4. `watch`;
5. `data_to_send` of each connection.

The next turn is due when something can be read, when somebody asks for something, or at `next_due`; and twice a second,
or `watch` would see too late that the main thread is stuck.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeAlias

from kemi_nsq.consumer.connection import Connection, ready_share
from kemi_nsq.consumer.message import Delivery, Happening, Item, Notice
from kemi_nsq.consumer.overseer import Overseer
from kemi_nsq.consumer.targets import Target
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, ProtocolError
from kemi_nsq.host import Level
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.memory import remember
from kemi_nsq.names import Subscription
from kemi_nsq.nsq import protocol as nsq

#: Asked of nsqd in IDENTIFY. Short enough to notice a frozen nsqd, long enough for a route that holds Python's lock.
HEARTBEAT_S = 10.0
#: A peer that was silent for this long is dead: two heartbeats and some.
SILENCE_S = 2.5 * HEARTBEAT_S
_DONE_KEPT = 10_000
#: Id and time of a message: several nsqd may use one id.
_Name: TypeAlias = tuple[bytes, int]
#: RDY for replies, which are handled at once, and not by the main thread.
_REPLIES_IN_FLIGHT = 1000


class Desk(Protocol):
    """Where replies to queries go: `queries.desk`, of which this needs nothing that has a socket."""

    subscription: Subscription

    def take_reply(self, body: bytes) -> None:
        """Hand a reply to who waits for it."""

    def expire(self, now: float) -> None:
        """Give up the queries whose deadline has passed."""

    def next_deadline(self) -> float | None:
        """Return the monotonic second at which `expire` has something to do."""


class Intake:
    """All open connections of a consumer process, and what is done with what comes by them.

    Args:
        max_in_flight: NSQ_MAX_IN_FLIGHT, shared by the connections of one topic.
        overseer: sees when the main thread is stuck, or nsqd sends too much.
        identify: fields for IDENTIFY.
        desk: takes the replies to queries.
        hand_over: takes deliveries and reports, for the main thread.
        on_closed: called with the target, and whether it had been subscribed, when a connection is gone.
        now: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913  # the supervisor passes each part in
        self,
        *,
        max_in_flight: int,
        overseer: Overseer,
        identify: dict[str, JsonValue],
        desk: Desk,
        hand_over: Callable[[list[Item]], None],
        on_closed: Callable[[Target, bool], None],
        now: float,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._overseer = overseer
        self._identify = identify
        self._desk = desk
        self._hand_over = hand_over
        self._on_closed = on_closed
        self._connections: dict[int, Connection] = {}
        self._last_connection_id = 0
        self._stuck = False
        self._limits: dict[Subscription, int] = {}
        #: Messages that were finished when the connection that they came by was gone: a native route that kept Python's
        #: lock for long would run again and again, and never be done.
        self._done: OrderedDict[_Name, None] = OrderedDict()
        self._turned_at = now

    # Connections

    def open(self, target: Target, now: float) -> Connection:
        """Begin a conversation with an nsqd to which there is a connection now."""
        self._last_connection_id += 1
        connection = Connection(
            connection_id=self._last_connection_id,
            target=target,
            conversation=nsq.Conversation(identify=self._identify, subscription=target.subscription),
            heard_at=now,
        )
        self._connections[connection.connection_id] = connection
        return connection

    def receive_data(self, connection: Connection, data: bytes, now: float) -> None:
        """Take what nsqd sent, and hand over what the main thread shall have of it.

        Raises:
            NsqError: nsqd broke its protocol, sends more than it may, or hangs up. The connection must be closed.
        """
        connection.heard_at = now
        connection.conversation.receive_data(data)
        items: list[Item] = []
        try:
            while (event := connection.conversation.next_event()) is not None:
                self._react(connection, event, items)
        finally:  # what came before the error was good
            if items:
                self._hand_over(items)

    def data_to_send(self, connection: Connection, now: float) -> bytes:
        """Return what is to be written to a connection now, TOUCH for what takes long included.

        Raises:
            ProtocolError: nsqd was silent for so long that it is dead. The connection must be closed.
        """
        if now - connection.heard_at > SILENCE_S:
            raise ProtocolError(f"nsqd was silent for {SILENCE_S:.0f} s")
        if now >= connection.touch_due:
            connection.touch(now)
        return connection.conversation.data_to_send()

    def leave(self, connection: Connection) -> None:
        """Ask nsqd to send no more by a connection; what comes until it has heard is given back, too."""
        if connection.subscribed:
            connection.conversation.close()
        else:
            connection.dismissed = True

    def give_back(self, connection: Connection) -> bytes:
        """Return the last that is to be written to a connection, which gives back all that is in flight there."""
        connection.give_back()
        return connection.conversation.data_to_send()

    def close(self, connection: Connection, reason: str, *, expected: bool = False) -> None:
        """Forget a connection that is gone; if that was not `expected`, `reason` is told."""
        del self._connections[connection.connection_id]
        if not expected:
            text = f"lost {connection.target.subscription} at {connection.target.address}: {reason}"
            report = self._overseer.report(Level.WARNING, text, Counter.DISCONNECTED)
            fields = connection.target.fields | {"Reason": reason}
            self._hand_over([Notice(happening=Happening.DISCONNECTED, report=report, fields=fields)])
        self._share_ready(connection.target.subscription)
        # One that sends what nobody asked for is left alone for longer each time, as one that does not answer.
        self._on_closed(connection.target, connection.subscribed and not connection.ignores_ready)

    # Answers and limits

    def finish(self, delivery: Delivery, now: float) -> None:
        """Answer a delivery with FIN."""
        self._overseer.answered(now)
        connection = self._connections.get(delivery.connection_id)
        if connection is not None:
            connection.finish(delivery.message.message_id, now)
        else:  # the message comes again when its timeout is over
            remember(self._done, _name(delivery.message), None, most=_DONE_KEPT)

    def requeue(self, delivery: Delivery, delay_ms: int, now: float) -> None:
        """Answer a delivery with REQ."""
        self._overseer.answered(now)
        connection = self._connections.get(delivery.connection_id)
        if connection is not None:
            connection.requeue(delivery.message.message_id, delay_ms)

    def pause(self, subscription: Subscription) -> None:
        """Take nothing more of a subscription: RDY 0 leaves before any answer that is given after this."""
        self.resume(subscription, 0)

    def resume(self, subscription: Subscription, limit: int | None = None) -> None:
        """Take messages of a subscription again: as many as usual, or at most `limit`, but one from each nsqd."""
        self._limits[subscription] = self._max_in_flight if limit is None else limit
        self._share_ready(subscription)

    # Time

    def begin_turn(self, now: float) -> None:
        """Say who kept Python's lock for so long that nsqd may have lost patience, and give up queries.

        It was not nsqd that was silent then: we were deaf.
        """
        held_up_s, self._turned_at = now - self._turned_at, now
        if held_up_s >= min(HEARTBEAT_S, self._overseer.route_timeout_s):
            for connection in self._connections.values():
                connection.heard_at = now
            self._hand_over([self._overseer.held_up(held_up_s, now)])
        self._desk.expire(now)

    def watch(self, now: float, wall: float) -> None:
        """Let nsqd hand messages to other consumers while the main thread is stuck (RDY 0), and to us again after.

        Args:
            now: monotonic seconds.
            wall: seconds since the epoch, to be shown.
        """
        judgement = self._overseer.look(now, self._connections.values())
        if judgement.stuck != self._stuck:
            self._stuck = judgement.stuck
            for subscription in {connection.target.subscription for connection in self._connections.values()}:
                self._share_ready(subscription)
        # After RDY 0, or nsqd would send more for what is given back.
        self._overseer.act(judgement, now, wall, self._connections)

    def next_due(self) -> float:
        """Return the monotonic second at which a turn has something to do even if nothing comes; infinity for never."""
        dues = [connection.touch_due for connection in self._connections.values()]
        deadline = self._desk.next_deadline()
        if deadline is not None:
            dues.append(deadline)
        return min(dues, default=math.inf)

    def describe(self, now: float) -> list[JsonValue]:
        """Return what each connection is for and how it is, for who asks; `silent_s` is since nsqd was heard."""
        return [
            {
                "nsqd": str(each.target.address),
                "topic": each.target.subscription.topic,
                "channel": each.target.subscription.channel,
                "replies": each.target.subscription == self._desk.subscription,
                "subscribed": each.subscribed,
                "ready": each.ready,
                "in_flight": len(each.touch_at),
                "silent_s": round(now - each.heard_at, 3),
            }
            for each in self._connections.values()
        ]

    # What nsqd says

    def _react(self, connection: Connection, event: nsq.NsqEvent, items: list[Item]) -> None:
        match event:
            case nsq.Message():
                self._take(connection, event, items)
            case nsq.Identified():
                connection.max_rdy, connection.touch_every_s = event.max_rdy, event.msg_timeout_s / 2
            case nsq.Subscribed():
                connection.subscribed = True
                self._share_ready(connection.target.subscription)
                text = f"consuming {connection.target.subscription} at {connection.target.address}"
                report = self._overseer.report(Level.INFO, text, Counter.CONNECTED)
                fields = connection.target.fields
                items.append(Notice(happening=Happening.CONNECTED, report=report, fields=fields))
            case nsq.Refused(code=code, text=text, fatal=fatal):
                # E_FIN_FAILED and its like: the message had timed out and comes again, and the handlers bear that.
                address, subscription = connection.target
                what = f"nsqd {address} refused a command for {subscription}: {code} {text}"
                items.append(self._overseer.report(Level.WARNING, what, Counter.REFUSED))
                if fatal:
                    raise ConnectionLost(f"nsqd refused: {code} {text}")
            case nsq.Accepted():  # CLOSE_WAIT; nothing else is answered here (NSQ TCP protocol spec)
                connection.dismissed = True
            case _:  # a heartbeat is answered by the connection
                pass

    def _take(self, connection: Connection, message: nsq.Message, items: list[Item]) -> None:
        """Do what is right with a message; under load there are many thousands a second."""
        message_id = message.message_id
        if connection.target.subscription == self._desk.subscription:
            self._desk.take_reply(message.body)
            connection.conversation.finish(message_id)
        elif message_id in connection.touch_at:
            pass  # it timed out while a native route kept Python's lock; the answer to come is good for it
        elif message_id in connection.late or (self._done and _name(message) in self._done):
            connection.conversation.finish(message_id)
        else:
            if not connection.touch_at:
                self._overseer.answered(connection.heard_at)
            connection.take(message_id)
            delivery = Delivery(connection.connection_id, connection.target.subscription, message)
            self._overseer.admit(len(message.body), connection)
            self._overseer.custody.arrived(delivery)
            items.append(delivery)

    def _share_ready(self, subscription: Subscription) -> None:
        connections = [
            connection
            for connection in self._connections.values()
            if connection.subscribed and connection.target.subscription == subscription
        ]
        if subscription == self._desk.subscription:
            wanted = _REPLIES_IN_FLIGHT
        else:
            wanted = 0 if self._stuck else self._limits.get(subscription, self._max_in_flight)
        for connection in connections:
            connection.tell_ready(ready_share(wanted, len(connections), connection.max_rdy) if wanted else 0)


def _name(message: nsq.Message) -> _Name:
    return message.message_id, message.timestamp_ns
