# SPDX-License-Identifier: GPL-2.0-or-later
"""The main loop of a consumer process: takes what its threads bring, and has it handled.

The process belongs to Kamailio's evrexec module, so `run_forever` neither returns nor raises (`restarts`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from importlib.metadata import version
from queue import Empty, SimpleQueue

from kemi_nsq.background import Background
from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.chores import Chores
from kemi_nsq.consumer.connector import Connector
from kemi_nsq.consumer.console import Console, Inquiries, Threads
from kemi_nsq.consumer.errand import Errand
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.handling import EventHandling
from kemi_nsq.consumer.intake import HEARTBEAT_S, Intake
from kemi_nsq.consumer.iothread import IoThread
from kemi_nsq.consumer.message import Delivery, Happening, Item, Notice
from kemi_nsq.consumer.metrics import Metrics
from kemi_nsq.consumer.notices import Notices
from kemi_nsq.consumer.nsqdwatch import NsqdWatch
from kemi_nsq.consumer.overseer import Overseer
from kemi_nsq.consumer.stacks import Stacks
from kemi_nsq.consumer.targets import Target
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError
from kemi_nsq.host import Broken, Host, Level, Report
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.memory import collect_seldom
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq.outbox import MakeSender, OutboxSender
from kemi_nsq.presence.clocks import Clocks
from kemi_nsq.queries.desk import ReplyDesk
from kemi_nsq.queries.protocol import REASON_VARIABLE, REPLY_VARIABLE, Resume
from kemi_nsq.quiet import Quiet
from kemi_nsq.restarts import keep_running, tell_and_wait
from kemi_nsq.runtime.ending import GRACE_S
from kemi_nsq.runtime.page import CONSUMER, Fact, Gauge
from kemi_nsq.runtime.place import Place
from kemi_nsq.settings import Settings

_JOIN_S = 10.0
#: Seconds for what has begun when this process is asked to end. The rest of the grace is for nsqd to hear the answers.
_FINISH_S = 0.75 * GRACE_S
_USER_AGENT = f"kemi-nsq/{version('kemi-nsq')}"
#: What may wait for the main thread besides events: lists of items, and characters of replies.
_MOST_ITEMS = 20_000
_MOST_REPLY_LENGTH = 64 * 1024 * 1024


class _Replies:
    """How much the replies have that wait for the main thread. One thread adds, the main thread takes."""

    def __init__(self) -> None:
        self._came = self._went = 0

    def full(self, resume: Resume) -> bool:
        """Whether there is no room for one more."""
        return self._came - self._went + len(resume.reply) > _MOST_REPLY_LENGTH

    def came(self, resume: Resume) -> None:
        """Count one that waits."""
        self._came += len(resume.reply)

    def went(self, resume: Resume) -> None:
        """Count one that waits no longer."""
        self._went += len(resume.reply)


class _IoFailed(NsqError):
    """The I/O thread ended; the message is its traceback."""


class Supervisor:
    """Consumes what the settings name.

    Args:
        settings: what to consume, and how.
        host: the SIP server.
        handling: handles the messages.
        chores: what is to be done besides.
        gate: holds topics in an outage.
        clocks: judges the clocks of nsqd; None where they put nothing in order.
        make_sender: makes what sends the outbox, given what takes its reports; None for no outbox.
        inquiries: answers tools.
        notices: tells event routes what happens besides events.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        handling: EventHandling,
        chores: Chores,
        gate: Gate,
        *,
        clocks: Clocks | None,
        make_sender: MakeSender | None,
        inquiries: Inquiries,
        notices: Notices,
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._host = host
        self._handling = handling
        self._chores = chores
        self._gate = gate
        self._clocks = clocks
        self._inquiries = inquiries
        self._notices = notices
        #: What other threads have for this one. To put something there never makes them wait: nsqd must be served while
        #: this thread is stuck. So it is bounded by those who put: by RDY, and by `_emit`.
        self._items: SimpleQueue[list[Item]] = SimpleQueue()
        self._replies = _Replies()
        #: What other threads report is often what peers made them, and peers never tire.
        self._quiet = Quiet(host, clock)
        self._stopping = threading.Event()
        #: One for all starts of the loop: it remembers what nsqd has taken.
        self._sender = make_sender(self._emit) if make_sender else None
        self._began = False
        self._stacks: Stacks
        self._io: IoThread
        self._connector: Connector

    def run_forever(self) -> None:
        """Run the loop, and start it again after any exception, with growing delay. Returns only after `stop`."""
        collect_seldom()
        self._host.page.role(CONSUMER)
        self._host.page.set(Gauge.ROUTE_TIMEOUT, self._settings.route_timeout)
        self._chores.begin()
        keep_running(self._run, recover=self._recover, over=self._is_over, clock=self._clock)
        if self._host.ending.asked:
            self._host.ending.end()

    def stop(self) -> None:
        """Let `run_forever` return, from another thread: for tests. Kamailio ends the whole process instead."""
        self._stopping.set()
        self._wake()

    def _on_end(self) -> None:
        """Begin no more, and finish what has begun; what is not done in time is nsqd's again, at once.

        Without that it would wait for the message's timeout: nsqd does, though the connection is gone.
        """
        self._io.stop_after(_FINISH_S)
        self._wake()

    def _is_over(self) -> bool:
        return self._stopping.is_set() or self._host.ending.asked

    def _wake(self) -> None:
        self._items.put([])  # which may be done in the midst of `get`

    def _recover(self, failures: int, trace: str) -> None:
        self._host.ending.at_once()  # nothing is in flight
        tell_and_wait("the consumer", failures, trace, self._host, self._stopping.wait, self._clock)

    def _run(self) -> None:
        self._items, self._replies = SimpleQueue(), _Replies()
        desk = self._make_desk()
        self._stacks = Stacks(self._host, self._settings.route_timeout)
        # Unlike all others, those of other containers too: in the reply topic a stranger is told by it.
        client_id = f"kamailio-{os.getpid()}-{self._clock.entropy(4).hex()}"
        self._io = self._make_io(desk, client_id)
        self._gate.attach(self._io)
        self._connector = Connector(
            self._settings,
            (*self._settings.subscriptions, desk.subscription),
            adopt=self._io.adopt,
            page=self._host.page,
            emit=self._emit,
            clock=self._clock,
        )
        watch = self._make_watch(desk, client_id)
        threads: list[IoThread | Background] = [self._io, self._connector, watch]
        if self._sender is not None:
            threads.append(OutboxSender(self._settings.outbox, self._sender, self._emit, self._host.page))
        if self._host.place is not None:
            threads.append(self._make_console(self._host.place))
            threads += self._make_metrics(self._host.place, first=desk.slot == 0)
        try:
            for thread in threads:
                thread.start()
            if desk.slot == 0 and not self._began:
                self._began = True
                self._notices.tell(Notice(happening=Happening.MOD_INIT, report=Report(level=Level.DEBUG, text="")))
            self._host.ending.begin(self._on_end)
            self._loop()
        finally:
            for thread in threads:
                thread.stop()
            # The reply topic and the outbox's lock must be free before the next start; at the end they are by itself.
            for thread in [self._io] if self._host.ending.asked else threads:
                thread.join(_JOIN_S)
            self._stacks.close()
            self._host.page.wait()

    def _make_desk(self) -> ReplyDesk:
        return ReplyDesk(
            self._settings.node,
            self._host.place,
            max_size=self._settings.max_reply_size,
            emit=self._emit,
            clock=self._clock,
        )

    def _make_io(self, desk: ReplyDesk, client_id: str) -> IoThread:
        overseer = Overseer(self._settings, self._host.page, self._stacks, self._items.put)
        intake = Intake(
            max_in_flight=self._settings.max_in_flight,
            overseer=overseer,
            identify=_identify(self._settings, client_id),
            desk=desk,
            hand_over=self._items.put,
            on_closed=self._on_closed,
            now=self._clock.monotonic(),
        )
        return IoThread(intake, custody=overseer.custody, desk=desk, hand_over=self._items.put, clock=self._clock)

    def _make_console(self, place: Place) -> Console:
        io, items = self._io, self._items
        self._inquiries.attach(
            Threads(
                main=lambda errand: items.put([errand]),
                io=lambda errand: io.run_errand(errand.run),
                connections=io.describe,
            )
        )
        return Console(place, self._inquiries, self._emit)

    def _make_metrics(self, place: Place, *, first: bool) -> list[Metrics]:
        return [
            Metrics(address, place.path, first=first, emit=self._emit, clock=self._clock)
            for address in self._settings.metrics_address
        ]

    def _make_watch(self, desk: ReplyDesk, client_id: str) -> NsqdWatch:
        clocks = self._clocks if desk.slot == 0 else None  # of all consumers, one judges them
        self._chores.look_for(clocks)
        return NsqdWatch(
            self._settings,
            desk.subscription,
            client_id,
            clocks=clocks,
            page=self._host.page,
            emit=self._emit,
            clock=self._clock,
        )

    def _loop(self) -> None:
        failed = bool(self._host.page.shown(Fact.FAILED))
        while not self._is_over():
            items = self._waiting()
            self._stacks.arm(self._clock.monotonic())
            self._take(items)
            self._host.page.begin("expiry and other chores")
            self._chores.tick()
            if failed:
                failed = False
                self._host.page.show(Fact.FAILED, "")

    def _emit(self, item: Item) -> None:
        """Take what another thread has to say; what it counts is in the page at once, even if this thread is stuck.

        While it is stuck only so much is kept: of a transaction that waits tm has thought better by then.
        """
        full = self._items.qsize() > _MOST_ITEMS
        report = item.report if isinstance(item, Notice) else item
        if isinstance(report, Report):
            if report.counter:
                self._host.page.count(report.counter)
            if full:
                return
        elif isinstance(item, Resume):
            if full or self._replies.full(item):
                self._host.page.count(Counter.RESUME_FAILED)
                return
            self._replies.came(item)
        self._items.put([item])

    def _on_closed(self, target: Target, was_subscribed: bool) -> None:
        # Called by the I/O thread: it may not wait for the other one, which may be connecting for seconds.
        self._connector.closed(target, was_subscribed)

    def _waiting(self) -> list[Item]:
        """Wait for something to do, and return it with what else is waiting, up to NSQ_BATCH and some."""
        self._host.page.wait()
        self._host.ending.in_order()
        due = self._chores.next_due()
        try:
            items = self._items.get(timeout=None if due is None else max(0.0, due - self._clock.monotonic()))
        except Empty:
            return []
        while len(items) < self._settings.batch:
            try:
                items = items + self._items.get_nowait()
            except Empty:
                break
        return items

    def _take(self, items: Sequence[Item]) -> None:
        deliveries = []
        for item in items:
            match item:
                case Delivery():
                    deliveries.append(item)
                case Resume():
                    self._resume(item)
                case Report():
                    self._say(item)
                case Notice():
                    self._notice(item)
                case Errand():
                    self._host.page.begin("what a tool has asked for")
                    item.run()
                case Broken():
                    raise _IoFailed(item.trace)
        size = self._settings.batch
        for start in range(0, len(deliveries), size):
            self._handling.handle(deliveries[start : start + size], self._io)

    def _notice(self, notice: Notice) -> None:
        self._say(self._notices.report(notice))
        if notice.happening is Happening.CONNECTED:
            self._chores.connected()
        self._notices.tell(notice)

    def _say(self, report: Report) -> None:
        """Log what a thread reports; it has counted in the page what it counts, and here the server's copy follows."""
        if report.text:
            self._quiet.log(report.level, report.counter or f"a report, {report.level.value}", report.text)
        if report.counter:
            self._host.mirror(report.counter)

    def _resume(self, resume: Resume) -> None:
        """Let a suspended transaction go on; one that has gone meanwhile (CANCEL, timeout) is counted."""
        self._replies.went(resume)
        self._host.page.begin(f"route {resume.suspended.route}, which goes on with a reply")
        fits = self._host.leave_variable(REPLY_VARIABLE, resume.reply)
        self._host.set_variable(REASON_VARIABLE, resume.reason or ("" if fits else "bad reply"))
        if not self._host.continue_transaction(resume.suspended):
            self._host.count(Counter.RESUME_FAILED)


def _identify(settings: Settings, client_id: str) -> dict[str, JsonValue]:
    return nsq.identify(
        client_id=client_id,
        hostname=settings.node,
        user_agent=_USER_AGENT,
        heartbeat_s=HEARTBEAT_S,
        unbuffered=True,
        msg_timeout_s=settings.msg_timeout,
    )
