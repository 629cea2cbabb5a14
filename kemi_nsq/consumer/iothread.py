# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that does all NSQ input and output of a consumer process; what it does is decided in `intake`.

It owns the sockets and the `Intake`. Other threads never touch either, so that neither needs a lock, and no socket is
written by two: they append a call to the inbox and wake the selector. What nsqd says goes to the main thread through
one queue, in lists, so that a burst costs one hand-over. The queue is bounded by RDY: nsqd never has more in flight
here than the main thread was promised. One that does not keep to that loses its connection.
"""

from __future__ import annotations

import math
import selectors
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.connection import Connection
from kemi_nsq.consumer.intake import Intake
from kemi_nsq.consumer.message import Custody, Delivery, Item
from kemi_nsq.consumer.targets import Target
from kemi_nsq.errors import ConnectionLost, NsqError
from kemi_nsq.host import Broken
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.names import Subscription
from kemi_nsq.nsq import sockets
from kemi_nsq.queries.desk import ReplyDesk

_TICK_S = 0.5
_SETTLE_S = 1.0
#: How long all nsqd may take to hear that this consumer leaves, and what it gives back.
_LEAVE_S = 0.3
_NONE = -1
#: What another thread asked for; it is called with the time at which this thread comes to it.
_Call: TypeAlias = Callable[[float], None]


@dataclass(slots=True, kw_only=True, eq=False)
class _Wire:
    """A connection, its socket, and the bytes that the socket has not taken yet."""

    connection: Connection
    socket: sockets.Socket
    unsent: bytes = b""


class IoThread(threading.Thread):
    """Reads and writes all connections of a consumer process.

    Args:
        intake: decides. From `start` on it is this thread's alone.
        custody: who has which message.
        desk: has a descriptor by which queries come.
        hand_over: where the main thread learns that this one broke.
        clock: where this thread looks for the time.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        custody: Custody,
        desk: ReplyDesk,
        hand_over: Callable[[list[Item]], None],
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(name="nsq-io", daemon=True)
        self._intake = intake
        # Not through the inbox: the main thread must know at once whether a message is still its own.
        self.begin, self.set_aside, self.keep = custody.begin, custody.set_aside, custody.keep
        self._desk = desk
        self._hand_over = hand_over
        self._clock = clock
        #: Any thread appends, this one takes: each is one operation of Python's. What one thread asks for stays in its
        #: order, so that RDY 0 leaves before the answers that make room for more.
        self._inbox: deque[_Call] = deque()
        #: An append alone would be seen when this thread turns next, half a second later.
        self._waker = sockets.Waker()
        self._selector = selectors.DefaultSelector()
        self._wires: dict[int, _Wire] = {}
        self._desk_descriptor = _NONE
        self._stopping = False
        self._ends_at = math.inf
        self._leaving = False

    # Called by other threads

    def adopt(self, target: Target, connected: sockets.Socket) -> None:
        """Take over a connected socket and start the conversation with nsqd."""
        if self._stopping:
            connected.close()
            return
        self._inbox.append(partial(self._open, target, connected))
        self._waker.wake()

    def finish(self, delivery: Delivery) -> None:
        """Send FIN for a delivery, at the next `flush`."""
        self._inbox.append(partial(self._intake.finish, delivery))

    def requeue(self, delivery: Delivery, delay_ms: int) -> None:
        """Send REQ for a delivery, at the next `flush`."""
        self._inbox.append(partial(self._intake.requeue, delivery, delay_ms))

    def pause(self, subscription: Subscription) -> None:
        """Take nothing more of a subscription: RDY 0 leaves before any answer that is given after this."""
        self._inbox.append(lambda _now: self._intake.pause(subscription))
        self._waker.wake()

    def resume(self, subscription: Subscription, limit: int | None = None) -> None:
        """Take messages of a subscription again: as many as usual, or at most `limit`, but one from each nsqd."""
        self._inbox.append(lambda _now: self._intake.resume(subscription, limit))
        self._waker.wake()

    def flush(self) -> None:
        """Let the answers go: those of a batch leave in one write, and cost the threads one turn."""
        self._waker.wake()

    def run_errand(self, run: Callable[[], None]) -> None:
        """Have this thread call something, at its next turn."""
        self._inbox.append(lambda _now: run())
        self._waker.wake()

    def describe(self) -> list[JsonValue]:
        """Return how each connection is; only to be called by `run_errand`."""
        return self._intake.describe(self._clock.monotonic())

    def settle(self) -> None:
        """Let the answers go and wait until they have: a native route may keep Python's lock for long."""
        left = threading.Event()
        self._inbox.append(partial(self._leave, left))
        self._waker.wake()
        left.wait(_SETTLE_S)

    def stop_after(self, seconds: float) -> None:
        """Stop when so much time has passed, if nobody has called `stop` by then."""
        self._ends_at = self._clock.monotonic() + seconds
        self._waker.wake()

    def stop(self) -> None:
        """Give back what is in flight, and close everything."""
        self._stopping = True
        self._waker.wake()

    # The thread itself

    def run(self) -> None:
        """Loop until `stop`; an error of ours is handed to the main thread."""
        try:
            self._selector.register(self._waker, selectors.EVENT_READ, self._waker.clear)
            self._watch_desk(self._clock.monotonic())
            while not self._stopping and self._clock.monotonic() < self._ends_at:
                self._turn()
        except BaseException:  # whatever it is, the main thread must learn that nobody reads any more
            self._hand_over([Broken(trace=traceback.format_exc())])
        finally:
            self._take_inbox()  # a socket in it must be closed, too
            self._leave_all()
            self._selector.close()
            self._waker.close()
            self._desk.close()

    def _turn(self) -> None:
        # The waker is cleared before the inbox is looked at: a call that is appended in between costs one turn more,
        # and the other way round it would be left lying.
        for key, _ in self._selector.select(self._patience()):
            key.data()
        now = self._clock.monotonic()
        self._intake.begin_turn(now)
        self._take_inbox()
        self._watch_desk(now)
        self._intake.watch(now, self._clock.wall())
        self._write_all(now)

    def _watch_desk(self, now: float) -> None:
        """Read letters of the desk, from whichever socket it has now."""
        self._desk.keep_open(now)
        before, self._desk_descriptor = self._desk_descriptor, self._desk.fileno()
        if before != self._desk_descriptor:
            if before != _NONE:
                self._selector.unregister(before)  # which is closed by now, or another socket's
            self._selector.register(self._desk_descriptor, selectors.EVENT_READ, self._desk.read_letters)

    def _patience(self) -> float:
        """Return the seconds until something is due."""
        due = min(self._intake.next_due(), self._ends_at)
        return min(_TICK_S, max(0.0, due - self._clock.monotonic()))

    def _take_inbox(self) -> None:
        while self._inbox:
            # The time is read for each: the main thread may have kept Python's lock since the last one.
            self._inbox.popleft()(self._clock.monotonic())

    def _leave(self, left: threading.Event, now: float) -> None:
        self._write_all(now)
        left.set()

    def _open(self, target: Target, connected: sockets.Socket, now: float) -> None:
        connected.setblocking(False)
        wire = _Wire(connection=self._intake.open(target, now), socket=connected)
        self._wires[wire.connection.connection_id] = wire
        self._selector.register(connected, selectors.EVENT_READ, partial(self._read, wire))

    def _close(self, wire: _Wire, reason: str) -> None:
        del self._wires[wire.connection.connection_id]
        self._selector.unregister(wire.socket)
        wire.socket.close()
        self._intake.close(wire.connection, reason, expected=self._leaving)

    def _read(self, wire: _Wire) -> None:
        try:
            data = sockets.receive(wire.socket)
            if data:
                self._intake.receive_data(wire.connection, data, self._clock.monotonic())
        except NsqError as error:  # the others shall not suffer by it
            self._close(wire, str(error))

    def _write_all(self, now: float) -> None:
        for wire in list(self._wires.values()):
            try:
                self._write(wire, now)
            except NsqError as error:
                self._close(wire, str(error))

    def _write(self, wire: _Wire, now: float) -> None:
        """Write what is due, as far as the socket takes it."""
        wire.unsent += self._intake.data_to_send(wire.connection, now)
        if wire.unsent:
            wire.unsent = wire.unsent[sockets.send(wire.socket, wire.unsent) :]
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.unsent else 0)
            if self._selector.get_key(wire.socket).events != wanted:
                self._selector.modify(wire.socket, wanted, partial(self._read, wire))

    def _leave_all(self) -> None:
        """Give back what is in flight, as far as nsqd listens.

        What nsqd sends until it hears of that would wait there for its timeout, so it is asked to send no more first,
        and waited for. And it must have read all before the connection is gone: one that is closed with something
        unread is reset, and nsqd loses what it had not read.
        """
        self._leaving = True
        until = self._clock.monotonic() + _LEAVE_S
        for wire in self._wires.values():
            self._intake.leave(wire.connection)
        self._write_all(self._clock.monotonic())
        self._listen(until, lambda: all(wire.connection.dismissed for wire in self._wires.values()))
        for wire in self._wires.values():
            self._give_back(wire)
        self._listen(until, lambda: not self._wires)  # nsqd has closed all of them
        for wire in list(self._wires.values()):
            self._close(wire, "stopped")

    def _listen(self, until: float, heard: Callable[[], bool]) -> None:
        """Read until nsqd was heard, or a monotonic second."""
        while not heard() and (left_s := until - self._clock.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                key.data()

    def _give_back(self, wire: _Wire) -> None:
        with suppress(ConnectionLost):
            sockets.send(wire.socket, wire.unsent + self._intake.give_back(wire.connection))
            sockets.end_sending(wire.socket)
