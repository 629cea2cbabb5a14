# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done about a main thread that is stuck, and about a nsqd that sends more than it may.

While the main thread is stuck nobody else can show, count or log anything: so it is done here, at once, in the page and
without `KSR`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from kemi_nsq.consumer.connection import GIVE_BACK_MS, Connection
from kemi_nsq.consumer.message import Custody, Happening, Item, Notice
from kemi_nsq.consumer.stacks import Stacks
from kemi_nsq.consumer.watchdog import FINE, Judgement, Watchdog
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ProtocolError
from kemi_nsq.host import Level, Report
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.runtime.page import Doing, Gauge, Page
from kemi_nsq.settings import Settings

#: The page shows how much is in flight at most this often.
_SHOW_S = 0.1
#: What may wait in the queue besides some times what RDY allows: nsqd counts what it has timed out as not in flight,
#: and sends more, while a native route keeps us from reading.
_SLACK_MESSAGES = 1000
_TIMES = 4
_LEAST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may wait in the queue for the main thread."""

    messages: int
    size: int


def bounds(settings: Settings) -> Bounds:
    """Return what a nsqd that keeps to RDY, and events that are not too large, never reach."""
    asked_for = _TIMES * settings.max_in_flight * len(settings.subscriptions)
    return Bounds(asked_for + _SLACK_MESSAGES, max(_LEAST_BYTES, asked_for * settings.max_event_size))


class Overseer:
    """Watches for the I/O thread, in its turns; the time comes as an argument.

    Args:
        settings: NSQ_ROUTE_TIMEOUT, and what bounds the queue.
        page: where this process shows its state.
        stacks: tells where the main thread is.
        hand_over: hands over what the main thread shall know.

    Attributes:
        custody: who has which message.
        route_timeout_s: NSQ_ROUTE_TIMEOUT.
    """

    def __init__(self, settings: Settings, page: Page, stacks: Stacks, hand_over: Callable[[list[Item]], None]) -> None:
        self.custody = Custody()
        self._bounds = bounds(settings)
        self._page = page
        self._stacks = stacks
        self._hand_over = hand_over
        self.route_timeout_s = settings.route_timeout
        self._watchdog = Watchdog(settings.route_timeout)
        self._shown_at = 0.0
        self._silent = False
        self._came = 0

    def report(self, level: Level, text: str, counter: Counter) -> Report:
        """Count in the page, at once, and return what tells the main thread, which may take a while."""
        self._page.count(counter)
        return Report(level=level, text=text, counter=counter)

    def held_up(self, seconds: float, now: float) -> Item:
        """Tell that the main thread, in C code, kept this thread from running; it may have been stuck there."""
        doing, long = self._page.doing, self._page.long
        last = long.what if long.seconds >= seconds / 2 else self._page.last
        text = (
            f"Python's lock was kept for {seconds:.0f} s, last by {last or 'nobody known'}: nsqd had no heartbeat "
            "meanwhile, and may have hung up"
        )
        report = Report(level=Level.WARNING, text=text)
        if seconds < self.route_timeout_s:
            return report
        if doing is not None and now - doing.since > self.route_timeout_s:
            # It may be over in a moment, and is told then, once, as anything else that takes too long.
            self._watchdog.is_late(doing)
            self._is_late(doing)
            return report
        return Notice(happening=Happening.STUCK, report=report, fields=_stuck(last, seconds))

    def answered(self, now: float) -> None:
        """Note that a message was answered, or is the first that waits."""
        self._watchdog.answered(now)

    def admit(self, size: int, connection: Connection) -> None:
        """See whether the queue has room for a message of so many bytes.

        Raises:
            ProtocolError: nsqd ignores RDY and has filled the queue. The connection must be closed.
        """
        custody = self.custody
        full = custody.queued >= self._bounds.messages or custody.queued_bytes + size > self._bounds.size
        if full and connection.ignores_ready:
            self._hand_over([self.report(Level.DEBUG, "", Counter.OVERFILLED)])
            raise ProtocolError(
                f"nsqd sends more than it was asked for: {custody.queued} messages with {custody.queued_bytes} bytes "
                f"wait here, and RDY was at most {connection.promised}"
            )

    def look(self, now: float, connections: Collection[Connection]) -> Judgement:
        """Judge whether the main thread is stuck, and show it."""
        waiting = any(connection.touch_at for connection in connections)
        judgement = self._watchdog.look(now, waiting=waiting, doing=self._page.doing)
        if judgement.silent and not self._silent:
            text = f"no message was answered for {judgement.silent_s:.0f} s: nsqd was asked for no more until one was"
            self._hand_over([self.report(Level.WARNING, text, Counter.STUCK)])
        self._silent = judgement.silent
        return judgement

    def act(self, judgement: Judgement, now: float, wall: float, connections: Mapping[int, Connection]) -> None:
        """Do what the judgement says, as far as it is not about RDY; `wall` is for those who look at the page."""
        if judgement is not FINE:
            self._rescue(judgement, connections)
        if now - self._shown_at >= _SHOW_S:
            self._show(now, wall, connections.values())

    def _rescue(self, judgement: Judgement, connections: Mapping[int, Connection]) -> None:
        if judgement.overdue:
            self._give_back(connections)
        if judgement.began is not None:
            self._is_late(judgement.began)
        if judgement.hopeless:
            for connection in connections.values():
                connection.abandon()
        if judgement.ended is not None:
            self._stacks.ended()
            text = f"stuck no more: {judgement.ended.what} took {judgement.took_s:.1f} s"
            report = Report(level=Level.WARNING, text=text, counter=Counter.ROUTE_TIMEOUT)
            fields = _stuck(judgement.ended.what, judgement.took_s)
            self._hand_over([Notice(happening=Happening.STUCK, report=report, fields=fields)])

    def _is_late(self, doing: Doing) -> None:
        self._page.count(Counter.ROUTE_TIMEOUT)
        self._stacks.began(doing)

    def _give_back(self, connections: Mapping[int, Connection]) -> None:
        """Let other consumers have what the main thread does not handle."""
        for delivery in self.custody.give_back():
            connection = connections.get(delivery.connection_id)
            if connection is not None:
                connection.requeue(delivery.message.message_id, GIVE_BACK_MS)
                self._hand_over([self.report(Level.DEBUG, "", Counter.GIVEN_BACK)])

    def _show(self, now: float, wall: float, connections: Collection[Connection]) -> None:
        """Do what is done some times a second only: under load there is a turn for each message."""
        self._shown_at = now
        if self._page.doing is None:
            self._stacks.disarm(now)
        else:
            self._stacks.arm(now)
        self._page.set(Gauge.IO_TURN, wall)
        if self.custody.came != self._came:
            self._came = self.custody.came
            self._page.set(Gauge.LAST_EVENT, wall)
        self._page.set(Gauge.IN_FLIGHT, sum(len(connection.touch_at) for connection in connections))
        self._page.set(Gauge.QUEUED, self.custody.queued)
        self._page.set(Gauge.QUEUED_BYTES, self.custody.queued_bytes)


def _stuck(what: str, seconds: float) -> JsonObject:
    """Return what an event route is told of it."""
    return {"What": what, "Seconds": round(seconds, 3)}
