# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that does all NSQ input and output of a consumer process.

It owns the sockets and the `Connection` of each. Other threads never touch them: they append a call to the inbox and
wake the selector. What nsqd says goes to the main thread through one queue, in lists, so that a burst costs one
hand-over. The queue is bounded by RDY: nsqd never has more in flight here than the main thread was promised. One that
does not keep to that loses its connection.
"""

from __future__ import annotations

import selectors
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

from kemi_nsq.consumer.connection import Connection
from kemi_nsq.consumer.items import Delivery, Item, Target
from kemi_nsq.consumer.overseer import Overseer
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, NsqError, ProtocolError
from kemi_nsq.host import Level
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.memory import remember
from kemi_nsq.names import Subscription
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq import sockets as transport
from kemi_nsq.nsq.limits import ready_share
from kemi_nsq.queries.desk import ReplyDesk
from kemi_nsq.reports import Broken

#: Asked of nsqd in IDENTIFY. Short enough to notice a frozen nsqd, long enough for a route that holds Python's lock.
HEARTBEAT_S = 10.0
#: A peer that was silent for this long is dead: two heartbeats and some.
SILENCE_S = 2.5 * HEARTBEAT_S
_TICK_S = 0.5
_SETTLE_S = 1.0
_DONE_KEPT = 10_000
#: Id and time of a message: several nsqd may use one id.
_Name: TypeAlias = tuple[bytes, int]
#: RDY for replies, which this thread handles itself, at once.
_REPLIES_IN_FLIGHT = 1000


class IoThread(threading.Thread):
    """Reads and writes all connections of a consumer process.

    Args:
        max_in_flight: NSQ_MAX_IN_FLIGHT, shared by the connections of one topic.
        overseer: sees when the main thread is stuck, or nsqd sends too much.
        identify: fields for IDENTIFY.
        items: where the main thread takes deliveries and reports.
        desk: takes the replies to queries.
        on_closed: called with the target, and whether it had been subscribed, when a connection is gone.
    """

    def __init__(  # noqa: PLR0913  # the consumer passes each part in
        self,
        *,
        max_in_flight: int,
        overseer: Overseer,
        identify: dict[str, JsonValue],
        items: SimpleQueue[list[Item]],
        desk: ReplyDesk,
        on_closed: Callable[[Target, bool], None],
    ) -> None:
        super().__init__(name="nsq-io", daemon=True)
        self._max_in_flight = max_in_flight
        self._overseer = overseer
        self.begin, self.set_aside, self.keep = (
            overseer.custody.begin,
            overseer.custody.set_aside,
            overseer.custody.keep,
        )
        self._identify = identify
        self._items = items
        self._desk = desk
        self._on_closed = on_closed
        self._inbox: deque[Callable[[], None]] = deque()
        self._waker = transport.Waker()
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, Connection] = {}
        self._last_connection_id = 0
        self._stopping = False
        self._stuck = False
        self._limits: dict[Subscription, int] = {}
        #: Messages that were finished when the connection that they came by was gone: a native route that kept Python's
        #: lock for long would run again and again, and never be done.
        self._done: OrderedDict[_Name, None] = OrderedDict()
        self._turned_at = time.monotonic()

    # Called by other threads

    def adopt(self, target: Target, connected: transport.Socket) -> None:
        """Take over a connected socket and start the conversation with nsqd."""
        if self._stopping:
            connected.close()
            return
        self._inbox.append(partial(self._open, target, connected))
        self._waker.wake()

    def finish(self, delivery: Delivery) -> None:
        """Send FIN for a delivery, at the next `flush`."""
        self._inbox.append(partial(self._answer, delivery, None))

    def requeue(self, delivery: Delivery, delay_ms: int) -> None:
        """Send REQ for a delivery, at the next `flush`."""
        self._inbox.append(partial(self._answer, delivery, delay_ms))

    def pause(self, subscription: Subscription) -> None:
        """Take nothing more of a subscription: RDY 0 leaves before any answer that is given after this."""
        self.resume(subscription, 0)

    def resume(self, subscription: Subscription, limit: int | None = None) -> None:
        """Take messages of a subscription again: as many as usual, or at most `limit`, but one from each nsqd."""
        self._inbox.append(partial(self._limit, subscription, limit))
        self._waker.wake()

    def flush(self) -> None:
        """Let the answers go: those of a batch leave in one write, and cost the threads one turn."""
        self._waker.wake()

    def settle(self) -> None:
        """Let the answers go and wait until they have: a native route may keep Python's lock for long."""
        left = threading.Event()
        self._inbox.append(partial(self._leave, left))
        self._waker.wake()
        left.wait(_SETTLE_S)

    def stop(self) -> None:
        """Give back what is in flight, and close everything."""
        self._stopping = True
        self._waker.wake()

    # The thread itself

    def run(self) -> None:
        """Loop until `stop`; an error of ours is handed to the main thread."""
        try:
            self._selector.register(self._waker, selectors.EVENT_READ, self._waker.clear)
            self._selector.register(self._desk, selectors.EVENT_READ, self._desk.read_letters)
            while not self._stopping:
                self._turn()
        except BaseException:  # whatever it is, the main thread must learn that nobody reads any more
            self._items.put([Broken(trace=traceback.format_exc())])
        finally:
            self._take_inbox()  # a socket in it must be closed, too
            for connection in list(self._connections.values()):
                connection.give_back()
                self._close(connection, "stopped", expected=True)
            self._selector.close()
            self._waker.close()
            self._desk.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        now = time.monotonic()
        self._note_if_held_up(now)
        self._desk.expire(now)
        self._take_inbox()
        self._watch(now)
        for connection in list(self._connections.values()):
            self._guard(connection, partial(self._tend, connection, now))

    def _note_if_held_up(self, now: float) -> None:
        """Say who kept Python's lock for so long that nsqd may have lost patience; it was not silent, we were deaf."""
        held_up_s, self._turned_at = now - self._turned_at, now
        if held_up_s < HEARTBEAT_S:
            return
        for connection in self._connections.values():
            connection.heard_at = now
        self._items.put([self._overseer.held_up(held_up_s)])

    def _watch(self, now: float) -> None:
        """Let nsqd hand messages to other consumers while the main thread is stuck (RDY 0), and to us again after."""
        verdict = self._overseer.look(now, self._connections.values())
        if verdict.stuck != self._stuck:
            self._stuck = verdict.stuck
            for subscription in {connection.target.subscription for connection in self._connections.values()}:
                self._share_ready(subscription)
        self._overseer.act(
            verdict, now, self._connections
        )  # after RDY 0, or nsqd would send more for what is given back

    def _take_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _leave(self, left: threading.Event) -> None:
        for connection in list(self._connections.values()):
            self._guard(connection, partial(self._tend, connection, time.monotonic()))
        left.set()

    def _patience(self) -> float:
        """Return the seconds until something is due."""
        dues = [connection.touch_due for connection in self._connections.values()]
        deadline = self._desk.next_deadline()
        if deadline is not None:
            dues.append(deadline)
        return min(_TICK_S, max(0.0, min(dues) - time.monotonic())) if dues else _TICK_S

    def _guard(self, connection: Connection, call: Callable[[], None]) -> None:
        """Do something with a connection; if that breaks it, close it and leave the others alone."""
        if connection.connection_id not in self._connections:
            return
        try:
            call()
        except NsqError as error:
            self._close(connection, str(error))

    def _open(self, target: Target, connected: transport.Socket) -> None:
        self._last_connection_id += 1
        connected.setblocking(False)
        connection = Connection(
            connection_id=self._last_connection_id,
            target=target,
            socket=connected,
            conversation=nsq.Conversation(identify=self._identify, subscription=target.subscription),
            heard_at=time.monotonic(),
        )
        self._connections[connection.connection_id] = connection
        self._selector.register(connected, selectors.EVENT_READ, self._reader(connection))

    def _reader(self, connection: Connection) -> Callable[[], None]:
        """Return what the selector calls when the connection has something to read."""
        return partial(self._guard, connection, partial(self._read, connection))

    def _close(self, connection: Connection, reason: str, *, expected: bool = False) -> None:
        del self._connections[connection.connection_id]
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if not expected:
            text = f"lost {connection.target.subscription} at {connection.target.address}: {reason}"
            self._items.put([self._overseer.report(Level.WARNING, text, Counter.DISCONNECTED)])
        self._share_ready(connection.target.subscription)
        # One that sends what nobody asked for is left alone for longer each time, as one that does not answer.
        self._on_closed(connection.target, connection.subscribed and not connection.ignores_ready)

    def _read(self, connection: Connection) -> None:
        data = transport.receive(connection.socket)
        if not data:
            return
        connection.heard_at = time.monotonic()
        connection.conversation.receive_data(data)
        items: list[Item] = []
        try:
            while (event := connection.conversation.next_event()) is not None:
                self._react(connection, event, items)
        finally:
            if items:
                self._items.put(items)

    def _react(self, connection: Connection, event: nsq.NsqEvent, items: list[Item]) -> None:
        match event:
            case nsq.Message() if connection.target.subscription == self._desk.subscription:
                self._desk.take_reply(event.body)
                connection.conversation.finish(event.message_id)
            case nsq.Message(message_id=message_id) if message_id in connection.touch_at:
                pass  # it timed out while a native route kept Python's lock; the answer to come is good for it
            case nsq.Message(message_id=message_id) if message_id in connection.late:
                connection.conversation.finish(message_id)
            case nsq.Message() if self._done and _name(event) in self._done:
                connection.conversation.finish(event.message_id)
            case nsq.Message():
                if not connection.touch_at:
                    self._overseer.answered(connection.heard_at)
                connection.take(event.message_id)
                delivery = Delivery(
                    connection_id=connection.connection_id, subscription=connection.target.subscription, message=event
                )
                items.append(self._overseer.arrived(delivery, connection))
            case nsq.Identified():
                connection.max_rdy, connection.touch_every_s = event.max_rdy, event.msg_timeout_s / 2
            case nsq.Subscribed():
                connection.subscribed = True
                self._share_ready(connection.target.subscription)
                text = f"consuming {connection.target.subscription} at {connection.target.address}"
                items.append(self._overseer.report(Level.INFO, text, Counter.CONNECTED))
            case nsq.Refused(code=code, text=text, fatal=fatal):
                # E_FIN_FAILED and its like: the message had timed out and comes again, and the handlers bear that.
                address, subscription = connection.target
                what = f"nsqd {address} refused a command for {subscription}: {code} {text}"
                items.append(self._overseer.report(Level.WARNING, what, Counter.REFUSED))
                if fatal:
                    raise ConnectionLost(f"nsqd refused: {code} {text}")
            case _:  # a heartbeat is answered by the connection; nothing waits for an OK here
                pass

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

    def _limit(self, subscription: Subscription, limit: int | None) -> None:
        self._limits[subscription] = self._max_in_flight if limit is None else limit
        self._share_ready(subscription)

    def _answer(self, delivery: Delivery, delay_ms: int | None) -> None:
        now = time.monotonic()
        self._overseer.answered(now)
        connection = self._connections.get(delivery.connection_id)
        if connection is None:  # its connection is gone; the message comes again when its timeout is over
            if delay_ms is None:
                remember(self._done, _name(delivery.message), None, most=_DONE_KEPT)
            return
        if delay_ms is None:
            connection.finish(delivery.message.message_id, now)
        else:
            connection.requeue(delivery.message.message_id, delay_ms)

    def _tend(self, connection: Connection, now: float) -> None:
        """Keep a connection alive: touch what takes long, notice a dead peer, write what is due."""
        if now - connection.heard_at > SILENCE_S:
            raise ProtocolError(f"nsqd was silent for {SILENCE_S:.0f} s")
        connection.touch(now)
        connection.unsent += connection.conversation.data_to_send()
        if connection.unsent:
            connection.unsent = connection.unsent[transport.send(connection.socket, connection.unsent) :]
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
            if self._selector.get_key(connection.socket).events != wanted:
                self._selector.modify(connection.socket, wanted, self._reader(connection))


def _name(message: nsq.Message) -> _Name:
    return message.message_id, message.timestamp_ns
