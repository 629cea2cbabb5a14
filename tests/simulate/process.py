# SPDX-License-Identifier: GPL-2.0-or-later
"""One consumer process of a simulated world: the parts that the product wires, and what its threads do in turns.

The main thread and the I/O thread take turns as the world says; where the product has a queue between them, so has
this. At its points (`Process.point`) the main thread may die, meet an error, or have to wait while others go on.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from kemi_nsq.consumer.connection import Connection
from kemi_nsq.consumer.intake import Intake
from kemi_nsq.consumer.message import Delivery, Happening, Item, Notice
from kemi_nsq.consumer.overseer import Overseer
from kemi_nsq.consumer.stacks import Stacks
from kemi_nsq.consumer.supervisor import _identify
from kemi_nsq.consumer.targets import Target, Targets
from kemi_nsq.errors import NsqError
from kemi_nsq.event import Event
from kemi_nsq.host import Report
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq.outbox import LOOK_INTERVAL_S, Sender
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Ways
from kemi_nsq.plugin.nsq_functions import NsqFunctions
from kemi_nsq.plugin.wiring import wire
from kemi_nsq.relay.handover import Handover
from kemi_nsq.settings import Settings
from tests.simulate.hoards import hoards
from tests.simulate.nsqd import ModelNsqd, Peer
from tests.simulate.outside import Crash, Desk, FaultyOutbox, Host, ModelWay
from tests.support.script import GivenHandlers

if TYPE_CHECKING:
    from tests.simulate.world import World

#: The I/O thread turns at least so often: while something is in flight, and else.
_TICK_S, _IDLE_S = 0.5, 5.0
_EVENTS = Subscription("kamailio", "kamailio")


Result = TypeVar("Result")


class RouteError(Exception):
    """A route of the operator's raises."""


class Process:
    """A consumer process.

    Args:
        world: where it lives.
        number: which of the consumers it is.
        settings: what the operator wants.
        dice: its chance.

    Attributes:
        name: of this process, for the log.
        dead: it has ended.
        busy: its main thread is in a turn.
        in_transaction: of the database.
        troubles: what it meets, by the number of the point.
        refuses: the next NOTIFY.
        fails: the next statement.
        loses: the answer to the next commit.
    """

    def __init__(self, world: World, number: int, settings: Settings, dice: Random) -> None:
        self.world = world
        self.name = f"consumer {number}"
        self.settings = settings
        self.dead = self.busy = self.in_transaction = False
        self.troubles: list[tuple[int, str]] = []
        self.refuses = self.fails = self.loses = False
        self._points = 0
        self._sending = False
        self._pauses_s = 0.0
        self.clock = world.clock(dice)
        self.host = Host(self, self.clock)
        self.parts = wire(
            self.host,
            settings,
            GivenHandlers({"nsq:consumer-event": self._route}),
            native=False,
            ways=self._ways,
            clock=self.clock,
        )
        self._items: deque[list[Item]] = deque()
        self._inbox: deque[Callable[[float], None]] = deque()
        self._wires: dict[int, tuple[Peer, ModelNsqd]] = {}
        overseer = Overseer(settings, self.host.page, Stacks(self.host, settings.route_timeout), self._items.append)
        self._custody = overseer.custody
        self.begin, self.set_aside, self.keep = self._custody.begin, self._custody.set_aside, self._custody.keep
        self._intake = Intake(
            max_in_flight=settings.max_in_flight,
            overseer=overseer,
            identify=_identify(settings, self.name),
            desk=Desk(),
            hand_over=self._items.append,
            on_closed=self._closed,
            now=world.now,
        )
        self._connections: dict[int, Connection] = {}
        addresses = [Address(f"nsqd{each}", 4150) for each in range(len(world.nsqds))]
        self._targets = Targets(addresses, [_EVENTS])
        publisher = Publisher(settings, self.clock, self._ways)
        self._outbox = FaultyOutbox(self, settings, self.clock)
        self._sender = Sender(self._outbox, publisher, self._emit, self.clock)
        self._functions = NsqFunctions(settings, self.host, publisher, self._outbox, Handover(None, 0.0), self.clock)
        self._turned_at, self._sent_at = world.now - _IDLE_S, world.now
        self.parts.work.chores.begin()
        self.parts.work.gate.attach(self)

    # What may happen to it

    def point(self, _name: str) -> None:
        """Be at a point where something may happen: the main thread is between two things that others can see."""
        self.alive()
        self._points += 1
        for trouble in [each for each in self.troubles if each[0] <= self._points]:
            self.troubles.remove(trouble)
            self._meet(trouble[1])
        if self._pauses_s and not self.in_transaction and not self.host.locked:
            seconds, self._pauses_s = self._pauses_s, 0.0
            self.world.advance(seconds)
            self.alive()

    def statement(self, point: str) -> None:
        """Be about to do something with the database."""
        self.point(point)
        if self.fails or self.world.database == "fails":
            self.fails = False
            raise _failure("disk I/O error")
        if self.world.database == "frozen":
            self.world.advance(min(1.0, self.settings.db_timeout), mains=False)
            raise _failure("database is locked")

    def commit(self, connection: sa.Connection) -> None:
        """Be about to commit; or have committed, and never learn it."""
        if self.dead:
            return
        self.statement("commit")
        if self.loses:
            self.loses = False
            connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            raise _failure("the connection is gone, and the answer with it")

    def alive(self) -> None:
        """Go no further if it has ended."""
        if self.dead:
            raise Crash

    def arm(self, after: int, what: str) -> None:
        """Have a trouble met so many points from now."""
        self.troubles.append((self._points + after, what))

    def restless(self) -> list[str]:
        """Say what it has still to do."""
        work = self.parts.work
        watchers = work.chores._watchers
        busy = {
            "has items": self._items,
            "has answers to send": self._inbox,
            "holds a topic": work.gate.holds(_EVENTS),
            "has NOTIFYs to send": watchers is not None and watchers.next_due() is not None,
            "holds messages": self._custody._free,
        }
        return [what for what, is_so in busy.items() if is_so]

    def hoards(self) -> list[str]:
        """Say what it holds in memory that it should have forgotten."""
        return [hoard for part in (self.parts, self._intake, self._custody, self._targets) for hoard in hoards(part)]

    def _meet(self, trouble: str) -> None:
        self.world.log(f"{self.name} meets {trouble} at its point {self._points}")
        if trouble == "crash":
            self.dead = True
            raise Crash
        self.refuses |= trouble == "refuse"
        self.fails |= trouble == "error"
        self.loses |= trouble == "lost"
        if trouble == "pause":
            self._pauses_s = 0.5 + 8 * self.clock.chance()

    def end(self) -> None:
        """End: what it had open is closed, and what it had in flight is nsqd's again."""
        self.dead = True
        for peer, nsqd in self._wires.values():
            if not peer.closed:
                nsqd.hang_up(peer)
        self._wires.clear()
        table = self.parts.pua._writer._table  # type: ignore[union-attr]
        table.close()
        self._outbox.close()

    # Its main thread

    def main_due(self) -> float:
        """Return the second at which the main thread has something to do."""
        if self._items:
            return self.world.now
        due = self.parts.work.chores.next_due()
        return self.world.now + 3600 if due is None else due

    def main_turn(self) -> None:
        """Take what waits, and do what is due; as `Supervisor._loop`."""
        self.busy = True
        try:
            items: list[Item] = []
            while self._items and len(items) < self.settings.batch:
                items += self._items.popleft()
            self._take(items)
            self.host.page.begin("expiry and other chores")
            self.parts.work.chores.tick()
            self.host.page.wait()
        finally:
            self.busy = False

    def _take(self, items: list[Item]) -> None:
        deliveries = []
        for item in items:
            if isinstance(item, Delivery):
                deliveries.append(item)
            elif isinstance(item, Notice):
                self._emit(item.report)
                if item.happening is Happening.CONNECTED:
                    self.parts.work.chores.connected()
            else:
                assert isinstance(item, Report)
                self._emit(item)
        for start in range(0, len(deliveries), self.settings.batch):
            self.parts.work.handling.handle(deliveries[start : start + self.settings.batch], self)

    def _route(self, event: Event) -> int:
        self.point("route")
        fields = event.fields
        if stalls_s := float(str(fields.get("Stalls", 0))):
            self.world.advance(stalls_s)
            self.alive()
        if self.world.route_fails(event):
            raise RouteError
        if fields["Event-Name"] == "reset":
            return self.parts.calls.call("nsq_pua_reset", self.parts.pua.reset, None).code
        return self.parts.calls.call("nsq_pua_publish", self.parts.pua.publish, None).code

    # Answers and valve, as the I/O thread has them

    def finish(self, delivery: Delivery) -> None:
        """Have FIN sent."""
        self.point("finish")
        self._inbox.append(partial(self._intake.finish, delivery))

    def requeue(self, delivery: Delivery, delay_ms: int) -> None:
        """Have REQ sent."""
        self.point("requeue")
        self._inbox.append(partial(self._intake.requeue, delivery, delay_ms))

    def pause(self, subscription: Subscription) -> None:
        """Take nothing more."""
        self._inbox.append(lambda _now: self._intake.pause(subscription))

    def resume(self, subscription: Subscription, limit: int | None = None) -> None:
        """Take messages again."""
        self._inbox.append(lambda _now: self._intake.resume(subscription, limit))

    def flush(self) -> None:
        """Let the answers leave: in the next turn of the I/O thread."""

    def settle(self) -> None:
        """Let them leave now."""
        self.io_turn()

    # Its I/O thread, and the one that connects

    def io_due(self) -> float:
        """Return the second at which these threads have something to do."""
        if self._inbox or any(peer.outgoing or peer.closed for peer, _ in self._wires.values()):
            return self.world.now
        tick = _TICK_S if self.busy or any(peer.in_flight for peer, _ in self._wires.values()) else _IDLE_S
        dues = (self._turned_at + tick, self._intake.next_due(), self._targets.next_due(self.world.now))
        return min(dues)

    def io_turn(self) -> None:
        """Do a turn, in the order of `intake`."""
        now = self._turned_at = self.world.now
        for number, (peer, _) in list(self._wires.items()):
            data, closed = bytes(peer.outgoing), peer.closed
            peer.outgoing.clear()
            if data:
                self._with(number, partial(self._intake.receive_data, data=data, now=now))
            if closed and number in self._wires:
                self._close(number, "nsqd hung up")
        self._intake.begin_turn(now)
        while self._inbox:
            self._inbox.popleft()(now)
        self._intake.watch(now, self.world.wall)
        self._write(now)
        self._connect(now)

    def _write(self, now: float) -> None:
        for number, (peer, nsqd) in list(self._wires.items()):
            sent = self._with(number, partial(self._intake.data_to_send, now=now))
            if sent:
                nsqd.receive(peer, sent, now)

    def _with(self, number: int, work: Callable[[Connection], Result]) -> Result | None:
        try:
            return work(self._connections[number])
        except NsqError as error:
            self._close(number, str(error))
            return None

    def _close(self, number: int, reason: str) -> None:
        peer, nsqd = self._wires.pop(number)
        if not peer.closed:
            nsqd.hang_up(peer)
        self._intake.close(self._connections.pop(number), reason)

    def _connect(self, now: float) -> None:
        for target in self._targets.due(now):
            nsqd = self.world.nsqds[int(target.address.host.removeprefix("nsqd"))]
            if nsqd.mode == "down":
                self._targets.failed(target, now, self.clock.chance())
                continue
            self._targets.opened(target, now)
            connection = self._intake.open(target, now)
            self._connections[connection.connection_id] = connection
            self._wires[connection.connection_id] = nsqd.connect(self, now), nsqd
        self._write(now)

    def _closed(self, target: Target, was_subscribed: bool) -> None:
        self._targets.closed(target, was_subscribed, self.world.now, self.clock.chance())

    # Its outbox's thread

    def send_due(self) -> float:
        """Return the second at which the sender looks into the outbox."""
        idle = self._sending or not self.world.kept
        return self.world.now + 3600 if idle else self._sent_at + LOOK_INTERVAL_S

    def send(self) -> None:
        """Send what the outbox holds."""
        self._sent_at, self._sending = self.world.now, True
        try:
            while self._sender.step():
                pass
        finally:
            self._sending = False

    def nsq_publish(self, topic: str, payload: JsonObject) -> bool:
        """Do what a SIP worker's route does; return whether nsqd, or the outbox, has the message."""
        return self.parts.calls.call("nsq_publish", self._functions.publish, topic, payload).code > 0

    def _emit(self, report: Report) -> None:
        if report.text:
            self.host.log(report.level, report.text)

    def _ways(self, _settings: Settings) -> Ways:
        return [(Address(f"nsqd{number}", 4150), ModelWay(self, nsqd)) for number, nsqd in enumerate(self.world.nsqds)]


def _failure(text: str) -> sa.exc.OperationalError:
    return sa.exc.OperationalError("a statement", {}, sqlite3.OperationalError(text))
