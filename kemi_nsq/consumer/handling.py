# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of a message: decode, find the route, run it, commit what it wrote; `verdict` then answers nsqd.

Messages that wait together are handled together: their routes run one after the other, what they publish as presence is
written in one transaction, and then all are answered. One that waits alone is handled at once, by the same way.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from kemi_nsq import event as events
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.items import Delivery
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.consumer.routes import Current, Outcome, Router
from kemi_nsq.consumer.verdict import Answers, Fault, Handled, Verdicts
from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError, RowRefused, StoreError
from kemi_nsq.host import Host, Level
from kemi_nsq.memory import remember
from kemi_nsq.page import Fact, Page
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.quiet import Quiet
from kemi_nsq.settings import Settings

#: A message during whose handling Kamailio has died so often is not handled again.
DEATHS = 3
#: When the database seemed to work again, so many commits that fail in a row say that it does not.
_FAILED_COMMITS = 2
_REMEMBERED_NAMES = 1000
_LONGEST_NAME = 200


class EventHandling:
    """Handles messages, one or several at a time.

    Args:
        settings: what the operator wants.
        host: the SIP server.
        router: finds and runs the event route.
        current: tells functions called in a route which event that is, and collects what they write.
        pua: commits it.
        gate: tells which topics take nothing now, and learns what fails.
        verdicts: answers each message.
        page: shows which messages are being handled, in case that this process dies of one.
        died: how often Kamailio has died while it handled a message, by the message's id.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        router: Router,
        current: Current,
        pua: PresenceWriter,
        *,
        gate: Gate,
        verdicts: Verdicts,
        page: Page,
        died: Mapping[str, float],
    ) -> None:
        self._settings = settings
        self._host = host
        self._router = router
        self._current = current
        self._pua = pua
        self._gate = gate
        self._verdicts = verdicts
        self._page = page
        self._died = died
        self._quiet = Quiet(host)
        self._unrouted: OrderedDict[str, None] = OrderedDict()

    def handle(self, deliveries: Sequence[Delivery], answers: Answers) -> None:
        """Handle messages that waited together, and answer all of them."""
        for together in self._apart(deliveries):
            self._handle(together, answers)

    def _apart(self, deliveries: Sequence[Delivery]) -> Iterable[Sequence[Delivery]]:
        """Let each message that Kamailio may have died of be handled by itself, so that it takes no other along."""
        suspects = [each for each in deliveries if each.message_id in self._died] if self._died else []
        if not suspects:
            return [deliveries]
        others = [each for each in deliveries if each.message_id not in self._died]
        return [*([others] if others else []), *([each] for each in suspects)]

    def _handle(self, deliveries: Sequence[Delivery], answers: Answers) -> None:
        finished = self._settings.ack == "received"
        if finished:
            deliveries = [each for each in deliveries if answers.begin(each) and not self._held(each, answers)]
            for delivery in deliveries:
                answers.finish(delivery)
            answers.settle()
        # With NSQ_PUA_REFRESH 0 the route itself refreshes the watchers, so what it wrote must be there by then.
        collect = len(deliveries) > 1 and self._settings.pua_refresh
        self._current.collected = [] if collect else None
        try:
            # What has been finished cannot be given back, though its topic be held since.
            handled = [*map(self._run, deliveries)] if finished else self._run_ours(deliveries, answers)
            self._commit([one for one in handled if one.rows])
        finally:
            self._current.collected = None
            self._page.show(Fact.HANDLING, "")
        for one in handled:
            self._verdicts.answer(one, answers)
        answers.flush()

    def _run_ours(self, deliveries: Sequence[Delivery], answers: Answers) -> list[Handled]:
        """Run the routes of those that were not given back because one of them took too long; return what is left."""
        handled = []
        for delivery in deliveries:
            if not answers.begin(delivery):
                self._verdicts.spare(delivery)
            elif not self._held(delivery, answers):
                handled.append(self._run(delivery))
                self._page.turn()
                answers.set_aside(delivery)
        return [one for one in handled if self._kept(one, answers)]

    def _kept(self, one: Handled, answers: Answers) -> bool:
        """Take a message once more, to commit and to answer it, unless it was given back meanwhile."""
        kept = answers.keep(one.delivery)
        if not kept:
            self._verdicts.spare(one.delivery)
        return kept

    def _held(self, delivery: Delivery, answers: Answers) -> bool:
        """Give a message back whose topic takes nothing now; return whether that was so."""
        held = self._gate.holds(delivery.subscription)
        if held:
            self._verdicts.give_back(delivery, answers)
        return held

    def _run(self, delivery: Delivery) -> Handled:
        """Decode a message and run its route; a bug of ours must not take the other messages along."""
        self._host.count(Counter.RECEIVED)
        self._page.handle(delivery.message.message_id)
        try:
            return self._decode_and_run(delivery)
        except Exception as error:
            return self._failed(Handled(delivery=delivery), error)

    def _failed(self, one: Handled, error: Exception) -> Handled:
        """Let a message come again that a bug of ours has met."""
        text = f"message {one.delivery.message_id}: {type(error).__name__}: {error}; please report this"
        self._quiet.log(Level.CRITICAL, Counter.BUG, text, error=error)
        self._host.count(Counter.BUG)
        one.again = Fault.OWN
        self._gate.route_failed(one.delivery.subscription, one.delivery.message_id)
        return one

    def _decode_and_run(self, delivery: Delivery) -> Handled:
        deaths = self._died.get(delivery.message_id, 0) if self._died else 0
        if deaths >= DEATHS:
            reason = "Kamailio died again and again while it was handled"
            return Handled(delivery=delivery, refused=reason, counter=Counter.GAVE_UP)
        try:
            event = _decode(delivery, self._settings.max_event_size)
        except PayloadError as error:
            return Handled(delivery=delivery, refused=str(error))
        names = events.route_names(
            event.fields, self._settings.consumer_event_key, self._settings.consumer_event_subkey
        )
        collected = self._current.collected
        rows_before = len(collected or ())
        outcome = self._router.run(names, event)
        if outcome is Outcome.MISSING:
            self._note_unrouted(names[0], event)
        one = Handled(
            delivery=delivery,
            rows=tuple((collected or ())[rows_before:]),
            refused=self._current.invalid,
            counter=Counter.PUA_INVALID,
            route=names[0],
        )
        self._judge(one, outcome)
        return one

    def _judge(self, one: Handled, outcome: Outcome) -> None:
        """Note whose fault it is that a message must come again, if it must, and tell the gate."""
        topic = one.delivery.subscription
        if self._current.store_error:
            one.again, one.doubtful = Fault.WORLD, self._gate.doubtful(Kind.DATABASE)
            self._gate.failed(Kind.DATABASE, [topic], self._current.store_error)
        elif outcome is Outcome.REQUEUE:
            one.again = Fault.OWN
            self._gate.route_failed(topic, one.delivery.message_id)
        elif outcome is Outcome.DONE:
            self._gate.route_succeeded(topic)

    def _commit(self, wrote: Sequence[Handled]) -> None:
        """Write what the routes collected; if that fails, every message that has a part in it comes again."""
        if not wrote:
            return
        self._page.show(Fact.HANDLING, " ".join(one.delivery.message_id for one in wrote))
        self._page.begin("the database")
        try:
            self._pua.commit([row for one in wrote for row in one.rows])
        except StoreError as error:
            # Where a probe has just succeeded it may be something that only one of them meets.
            if len(wrote) > 1 and self._gate.doubtful(Kind.DATABASE):
                self._commit_apart(wrote)
            else:
                self._database_failed(wrote, error)
        except Exception as error:
            if len(wrote) > 1:  # one of them spoils it for all: each by itself
                for one in wrote:
                    self._commit([one])
            elif isinstance(error, RowRefused):
                self._blame(wrote[0], error)
            else:
                self._failed(wrote[0], error)

    def _commit_apart(self, wrote: Sequence[Handled]) -> None:
        """Write what each message has by itself. If the database takes none of it, it is an outage all the same."""
        failed: list[Handled] = []
        last: StoreError | None = None
        until = time.monotonic() + self._settings.db_timeout
        for tried, one in enumerate(wrote):
            if tried == len(failed) == _FAILED_COMMITS or (failed and time.monotonic() > until):
                failed.extend(wrote[tried:])
                break
            try:
                self._pua.commit(one.rows)
            except StoreError as error:
                failed.append(one)
                last = error
            except RowRefused as error:
                self._blame(one, error)
            except Exception as error:
                self._failed(one, error)
        if last is not None and len(failed) == len(wrote):
            self._database_failed(failed, last)
        elif last is not None:
            self._database_refuses(failed, last)

    def _database_failed(self, wrote: Sequence[Handled], error: StoreError) -> None:
        """Take note of an outage: nothing of some messages was written, by no fault of theirs."""
        self._host.count(Counter.PUA_DATABASE_ERROR)
        for one in wrote:
            one.again, one.doubtful = Fault.WORLD, self._gate.doubtful(Kind.DATABASE)
        self._gate.failed(Kind.DATABASE, [one.delivery.subscription for one in wrote], str(error))

    def _database_refuses(self, wrote: Sequence[Handled], error: StoreError) -> None:
        """Let messages come again that the database did not take while it took others."""
        self._host.count(Counter.PUA_DATABASE_ERROR)
        text = (
            f"the database took other messages, but not {len(wrote)}, such as {wrote[0].delivery.message_id}: {error}"
        )
        self._quiet.log(Level.ERROR, Counter.PUA_DATABASE_ERROR, text)
        for one in wrote:
            one.again, one.doubtful = Fault.WORLD, True

    def _blame(self, one: Handled, refused: RowRefused) -> None:
        """Drop a message whose row is refused, unless the table takes none at all: a column was changed, ids ended."""
        try:
            self._pua.blame_table()
        except StoreError as error:
            self._database_failed([one], error)
        else:
            self._drop_row(one, refused)

    def _drop_row(self, one: Handled, error: RowRefused) -> None:
        one.refused = str(error)
        self._host.count(Counter.PUA_INVALID)
        self._quiet.log(Level.ERROR, Counter.PUA_INVALID, f"message {one.delivery.message_id} dropped: {error}")

    def _note_unrouted(self, name: str, event: events.Event) -> None:
        self._host.count(Counter.UNROUTED)
        name = name[:_LONGEST_NAME]
        if name in self._unrouted:
            return
        remember(self._unrouted, name, None, most=_REMEMBERED_NAMES)
        where = f"{event.topic}:{event.channel}"
        self._host.log(Level.WARNING, f"no event_route for {name} from {where}; such events are dropped")


def _decode(delivery: Delivery, max_size: int) -> events.Event:
    message = delivery.message
    payload, fields = events.decode(message.body, max_size=max_size)
    return events.Event(
        topic=delivery.subscription.topic,
        channel=delivery.subscription.channel,
        message_id=delivery.message_id,
        timestamp_ns=message.timestamp_ns,
        attempts=message.attempts,
        payload=payload,
        fields=fields,
    )
