# SPDX-License-Identifier: GPL-2.0-or-later
"""The main loop of a consumer process: takes messages from the I/O thread, runs their routes, answers nsqd.

The process belongs to Kamailio's evrexec module. If its function returned or raised, the process would sleep for ever
and look healthy (evrexec_mod.c, `evrexec_process_start`): so `run_forever` does neither.
"""

from __future__ import annotations

import os
import random
import threading
import traceback
from collections import OrderedDict
from importlib.metadata import version
from queue import SimpleQueue

from kemi_nsq import event as events
from kemi_nsq.connector import Connector
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError, PayloadError
from kemi_nsq.flow import reconnect_delay_s, requeue_delay_ms
from kemi_nsq.host import Host, Level
from kemi_nsq.iothread import HEARTBEAT_S, IoThread
from kemi_nsq.outbox import Outbox, OutboxSender
from kemi_nsq.publisher import Publisher
from kemi_nsq.query import REASON_VARIABLE, REPLY_VARIABLE
from kemi_nsq.quiet import Quiet
from kemi_nsq.replies import ReplyDesk
from kemi_nsq.routes import Outcome, Router
from kemi_nsq.settings import Settings
from kemi_nsq.traffic import Broken, Delivery, Item, Report, Resume, Target

_REMEMBERED_NAMES = 1000
_JOIN_S = 10.0


class _IoFailed(NsqError):
    """The I/O thread ended; the message is its traceback."""


class Consumer:
    """Consumes what the settings name and runs the routes.

    Args:
        settings: what to consume, and how.
        host: the SIP server.
        router: finds and runs the event route.
        outbox: what `nsq_publish` could not publish, to be sent from here; or None.
    """

    def __init__(self, settings: Settings, host: Host, router: Router, *, outbox: Outbox | None = None) -> None:
        self._settings = settings
        self._host = host
        self._router = router
        self._outbox = outbox
        self._quiet = Quiet(host)
        self._items: SimpleQueue[list[Item]] = SimpleQueue()
        self._unrouted: OrderedDict[str, None] = OrderedDict()
        self._io: IoThread
        self._connector: Connector

    def run_forever(self) -> None:
        """Run the loop, and start it again after any exception, with growing delay. Never returns."""
        failures = 0
        while True:
            try:
                self._run()
            except BaseException:  # also SystemExit: this process must not end, nor sleep for ever
                failures += 1
                delay_s = reconnect_delay_s(failures, random.random())
                self._host.log(Level.CRITICAL, f"the consumer failed and starts again in {delay_s:.1f} s")
                self._host.log(Level.ERROR, traceback.format_exc())
                self._host.count(Counter.RESTARTED)
                threading.Event().wait(delay_s)

    def handle(self, delivery: Delivery) -> None:
        """Handle one message: decode, find the route, run it, answer nsqd."""
        self._host.count(Counter.RECEIVED)
        if self._settings.ack == "received":
            self._io.finish(delivery)
        try:
            event = self._decode(delivery)
        except PayloadError as error:
            self._refuse(delivery, Counter.INVALID, str(error))
            return
        names = events.route_names(
            event.fields, self._settings.consumer_event_key, self._settings.consumer_event_subkey
        )
        outcome = self._router.run(names, event)
        if outcome is Outcome.REQUEUE:
            self._again(delivery)
            return
        if outcome is Outcome.MISSING:
            self._note_unrouted(names[0], event)
        self._io.finish(delivery)

    def _run(self) -> None:
        self._items = SimpleQueue()
        desk = ReplyDesk(self._settings.node, max_size=self._settings.max_reply_size, emit=self._emit)
        self._io = IoThread(
            max_in_flight=self._settings.max_in_flight,
            identify=_identify(self._settings),
            items=self._items,
            desk=desk,
            on_closed=self._on_closed,
        )
        self._connector = Connector(
            self._settings,
            (*self._settings.subscriptions, desk.subscription),
            adopt=self._io.adopt,
            report=self._emit,
        )
        threads: list[IoThread | Connector | OutboxSender] = [self._io, self._connector]
        if self._outbox is not None:
            threads.append(OutboxSender(self._outbox, Publisher(self._settings), self._emit))
        try:
            for thread in threads:
                thread.start()
            while True:
                for item in self._items.get():
                    self._take(item)
        finally:
            for thread in threads:
                thread.stop()
            # The reply topic and the outbox's lock must be free before the next start.
            for thread in threads:
                thread.join(_JOIN_S)

    def _emit(self, item: Item) -> None:
        self._items.put([item])

    def _on_closed(self, target: Target, was_subscribed: bool) -> None:
        self._connector.closed(target, was_subscribed)

    def _take(self, item: Item) -> None:
        match item:
            case Delivery():
                self.handle(item)
            case Resume():
                self._resume(item)
            case Report():
                if item.text:
                    self._host.log(item.level, item.text)
                if item.counter:
                    self._host.count(item.counter)
            case Broken():
                raise _IoFailed(item.trace)

    def _resume(self, resume: Resume) -> None:
        """Let a suspended transaction go on; one that has gone meanwhile (CANCEL, timeout) is counted."""
        self._host.set_variable(REPLY_VARIABLE, resume.reply)
        self._host.set_variable(REASON_VARIABLE, resume.reason or "")
        if not self._host.continue_transaction(resume.suspended):
            self._host.count(Counter.RESUME_FAILED)

    def _decode(self, delivery: Delivery) -> events.Event:
        message = delivery.message
        payload, fields = events.decode(message.body, max_size=self._settings.max_event_size)
        return events.Event(
            topic=delivery.subscription.topic,
            channel=delivery.subscription.channel,
            message_id=message.message_id.decode("ascii", "replace"),
            timestamp_ns=message.timestamp_ns,
            attempts=message.attempts,
            payload=payload,
            fields=fields,
        )

    def _again(self, delivery: Delivery) -> None:
        attempts = delivery.message.attempts
        if self._settings.ack == "received":
            return
        if attempts >= self._settings.max_attempts:
            self._refuse(delivery, Counter.GAVE_UP, f"its route asked for it again after {attempts} deliveries")
            return
        self._host.count(Counter.REQUEUED)
        self._io.requeue(delivery, requeue_delay_ms(attempts))

    def _refuse(self, delivery: Delivery, counter: Counter, reason: str) -> None:
        """Drop a message for good: one line that says which and why, a counter, FIN."""
        where = f"{delivery.subscription} message {delivery.message.message_id.decode('ascii', 'replace')}"
        self._quiet.log(Level.ERROR, counter, f"{where} dropped: {reason}")
        self._host.count(counter)
        self._io.finish(delivery)

    def _note_unrouted(self, name: str, event: events.Event) -> None:
        self._host.count(Counter.UNROUTED)
        if name in self._unrouted:
            return
        self._unrouted[name] = None
        if len(self._unrouted) > _REMEMBERED_NAMES:
            self._unrouted.popitem(last=False)
        self._host.log(
            Level.WARNING,
            f"no event_route for {name} from {event.topic}:{event.channel}; such events are dropped",
        )


def _identify(settings: Settings) -> dict[str, events.JsonValue]:
    """Return the fields of IDENTIFY (NSQ TCP protocol spec)."""
    return {
        "client_id": f"kamailio-{os.getpid()}",
        "hostname": settings.node,
        "user_agent": f"kemi-nsq/{version('kemi-nsq')}",
        "heartbeat_interval": int(HEARTBEAT_S * 1000),
        # nsqd would hold messages back for up to 250 ms; unbuffered, an event arrives in a fraction of a millisecond.
        "output_buffer_size": -1,
    }
