# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of a message: decode, find the route, run it, commit what it wrote, answer nsqd.

Messages that wait together are handled together: their routes run one after the other, what they publish as presence is
written in one transaction, and then all are answered. One that waits alone is handled at once, by the same way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kemi_nsq import event as events
from kemi_nsq.counters import Counter
from kemi_nsq.deadletters import DeadLetters
from kemi_nsq.errors import NsqdRefused, PayloadError, RowRefused, StoreError, TransientError
from kemi_nsq.flow import remember, requeue_delay_ms
from kemi_nsq.host import Host, Level
from kemi_nsq.presentity import Row
from kemi_nsq.pua import PresencePublisher
from kemi_nsq.quiet import Quiet
from kemi_nsq.routes import Current, Outcome, Router
from kemi_nsq.settings import Settings
from kemi_nsq.traffic import Delivery

_REMEMBERED_NAMES = 1000
_LONGEST_NAME = 200


class Answers(Protocol):
    """Who sends FIN and REQ, and gives back what waits for too long."""

    def begin(self, delivery: Delivery) -> bool:
        """Take a message; False if it was given back meanwhile, and is another consumer's."""

    def set_aside(self, delivery: Delivery) -> None:
        """Let it be given back again while others are handled that are answered with it."""

    def keep(self, delivery: Delivery) -> bool:
        """Take it once more, to answer it, as `begin`."""

    def finish(self, delivery: Delivery) -> None:
        """Prepare FIN."""

    def requeue(self, delivery: Delivery, delay_ms: int) -> None:
        """Prepare REQ."""

    def flush(self) -> None:
        """Let them leave now."""

    def settle(self) -> None:
        """Let them leave now, and wait until they have."""


@dataclass(slots=True, kw_only=True)
class _Handled:
    """One message after its route.

    Attributes:
        delivery: the message.
        again: it shall come again.
        rows: what its route has in the batch.
        refused: why it is of no use, or ''.
        counter: counts the refusal.
        route: the most specific route name of it, or '' if it could not be decoded.
    """

    delivery: Delivery
    again: bool = False
    rows: tuple[Row, ...] = ()
    refused: str = ""
    counter: Counter = Counter.INVALID
    route: str = ""


class EventHandling:
    """Handles messages, one or several at a time.

    Args:
        settings: what the operator wants.
        host: the SIP server.
        router: finds and runs the event route.
        current: tells functions called in a route which event that is, and collects what they write.
        pua: commits it.
        dead_letters: takes what cannot be used.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        *,
        settings: Settings,
        host: Host,
        router: Router,
        current: Current,
        pua: PresencePublisher,
        dead_letters: DeadLetters,
    ) -> None:
        self._settings = settings
        self._host = host
        self._router = router
        self._current = current
        self._pua = pua
        self._dead_letters = dead_letters
        self._quiet = Quiet(host)
        self._unrouted: OrderedDict[str, None] = OrderedDict()

    def handle(self, deliveries: Sequence[Delivery], answers: Answers) -> None:
        """Handle messages that waited together, and answer all of them."""
        if received := self._settings.ack == "received":
            deliveries = [delivery for delivery in deliveries if answers.begin(delivery)]
            for delivery in deliveries:
                answers.finish(delivery)
            answers.settle()
        # With NSQ_PUA_REFRESH 0 the route itself refreshes the watchers, so what it wrote must be there by then.
        collect = len(deliveries) > 1 and self._settings.pua_refresh
        self._current.collected = [] if collect else None
        try:
            handled = [*map(self._run, deliveries)] if received else self._run_ours(deliveries, answers)
            self._commit(handled)
        finally:
            self._current.collected = None
        for one in handled:
            self._answer(one, answers)
        answers.flush()

    def _run_ours(self, deliveries: Sequence[Delivery], answers: Answers) -> list[_Handled]:
        """Run the routes of those that were not given back because one of them took too long; return what is left."""
        handled = []
        for delivery in deliveries:
            if answers.begin(delivery):
                handled.append(self._run(delivery))
                self._host.page.turn()
                answers.set_aside(delivery)
        return [one for one in handled if answers.keep(one.delivery)]

    def _run(self, delivery: Delivery) -> _Handled:
        """Decode a message and run its route; a bug of ours must not take the other messages along."""
        self._host.count(Counter.RECEIVED)
        try:
            return self._decode_and_run(delivery)
        except Exception as error:
            return self._failed(_Handled(delivery=delivery), error)

    def _failed(self, one: _Handled, error: Exception) -> _Handled:
        """Let a message come again that a bug of ours has met."""
        text = f"message {_id(one.delivery)}: {type(error).__name__}: {error}; it comes again; please report this"
        self._quiet.log(Level.CRITICAL, Counter.BUG, text)
        self._host.count(Counter.BUG)
        one.again = True
        return one

    def _decode_and_run(self, delivery: Delivery) -> _Handled:
        attempts = delivery.message.attempts
        if attempts > self._settings.max_attempts:  # earlier ones ended without an answer
            return _Handled(delivery=delivery, refused=f"this is delivery {attempts} of it", counter=Counter.GAVE_UP)
        try:
            event = _decode(delivery, self._settings.max_event_size)
        except PayloadError as error:
            return _Handled(delivery=delivery, refused=str(error))
        names = events.route_names(
            event.fields, self._settings.consumer_event_key, self._settings.consumer_event_subkey
        )
        collected = self._current.collected
        rows_before = len(collected or ())
        outcome = self._router.run(names, event)
        if outcome is Outcome.MISSING:
            self._note_unrouted(names[0], event)
        return _Handled(
            delivery=delivery,
            again=outcome is Outcome.REQUEUE,
            rows=tuple((collected or ())[rows_before:]),
            refused=self._current.invalid,
            counter=Counter.PUA_INVALID,
            route=names[0],
        )

    def _commit(self, handled: Sequence[_Handled]) -> None:
        """Write what the routes collected; if that fails, every message that has a part in it comes again."""
        wrote = [one for one in handled if one.rows]
        if not wrote:
            return
        self._host.page.begin(f"the database, for {len(wrote)} messages")
        try:
            self._pua.commit([row for one in wrote for row in one.rows])
        except StoreError as error:
            self._host.count(Counter.PUA_DATABASE_ERROR)
            text = f"the database failed, {len(wrote)} messages come again: {error}"
            self._quiet.log(Level.ERROR, Counter.PUA_DATABASE_ERROR, text)
            for one in wrote:
                one.again = True
        except Exception as error:
            if len(wrote) > 1:  # one of them spoils it for all: each by itself
                for one in wrote:
                    self._commit([one])
            elif isinstance(error, RowRefused):
                self._drop_row(wrote[0], error)
            else:
                self._failed(wrote[0], error)

    def _drop_row(self, one: _Handled, error: RowRefused) -> None:
        one.refused = str(error)
        self._host.count(Counter.PUA_INVALID)
        self._quiet.log(Level.ERROR, Counter.PUA_INVALID, f"message {_id(one.delivery)} dropped: {error}")

    def _answer(self, one: _Handled, answers: Answers) -> None:
        if one.again:
            self._again(one, answers)
        elif one.refused:
            self._refuse(one, answers)
        else:
            answers.finish(one.delivery)

    def _again(self, one: _Handled, answers: Answers) -> None:
        attempts = one.delivery.message.attempts
        if self._settings.ack == "received":
            return
        if attempts >= self._settings.max_attempts:
            one.refused = f"its route asked for it again after {attempts} deliveries"
            one.counter = Counter.GAVE_UP
            self._refuse(one, answers)
            return
        self._host.count(Counter.REQUEUED)
        answers.requeue(one.delivery, requeue_delay_ms(attempts))

    def _refuse(self, one: _Handled, answers: Answers) -> None:
        """Drop a message for good: one line that says which and why, a counter, the dead-letter topic, FIN."""
        delivery = one.delivery
        # A function of the route has reported what it found invalid.
        if one.counter is not Counter.PUA_INVALID:
            self._quiet.log(
                Level.ERROR, one.counter, f"{delivery.subscription} message {_id(delivery)} dropped: {one.refused}"
            )
            self._host.count(one.counter)
        try:
            if self._dead_letters.send(delivery, reason=one.refused, route=one.route):
                self._host.count(Counter.DEAD_LETTERS)
        except NsqdRefused as error:  # too large for nsqd, say: it would be refused for ever
            self._quiet.log(Level.ERROR, "dead letter", f"no dead letter: nsqd said {error}")
        except TransientError as error:
            if self._settings.ack == "received":  # nsqd has forgotten it
                self._quiet.log(Level.ERROR, "dead letter", f"no dead letter: {error}")
                return
            self._quiet.log(Level.ERROR, "dead letter", f"no dead letter, the message comes again: {error}")
            answers.requeue(delivery, requeue_delay_ms(delivery.message.attempts))
            return
        answers.finish(delivery)

    def _note_unrouted(self, name: str, event: events.Event) -> None:
        self._host.count(Counter.UNROUTED)
        name = name[:_LONGEST_NAME]
        if name in self._unrouted:
            return
        remember(self._unrouted, name, None, most=_REMEMBERED_NAMES)
        where = f"{event.topic}:{event.channel}"
        self._host.log(Level.WARNING, f"no event_route for {name} from {where}; such events are dropped")


def _id(delivery: Delivery) -> str:
    return delivery.message.message_id.decode("ascii", "replace")


def _decode(delivery: Delivery, max_size: int) -> events.Event:
    message = delivery.message
    payload, fields = events.decode(message.body, max_size=max_size)
    return events.Event(
        topic=delivery.subscription.topic,
        channel=delivery.subscription.channel,
        message_id=_id(delivery),
        timestamp_ns=message.timestamp_ns,
        attempts=message.attempts,
        payload=payload,
        fields=fields,
    )
