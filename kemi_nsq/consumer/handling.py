# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of a message: decode, find the route, run it, commit what it published, answer nsqd.

Messages that wait together are handled together: their routes run one after the other, what they publish as presence is
written in one transaction, and then all are answered. One that waits alone is handled at once, by the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.committing import Committing
from kemi_nsq.consumer.eventlog import tell
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.message import Current, Delivery, Fault, Handled
from kemi_nsq.consumer.origin import opened
from kemi_nsq.consumer.routes import Outcome, Router
from kemi_nsq.consumer.tally import End, Tally
from kemi_nsq.consumer.verdict import Answers, Verdicts
from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError
from kemi_nsq.event import Event
from kemi_nsq.host import Host
from kemi_nsq.runtime.page import Fact, Stage
from kemi_nsq.settings import Settings

#: A message during whose handling Kamailio has died so often is not handled again.
DEATHS = 3


class EventHandling:
    """Handles messages, one or several at a time.

    Args:
        settings: what the operator wants.
        host: the SIP server. Its page shows which messages are being handled, in case that this process dies of one.
        router: finds and runs the event route.
        current: tells functions called in a route which message that is, and what they say about it.
        committing: writes what they publish.
        gate: tells which topics take nothing now, and learns what fails.
        verdicts: answers each message.
        tally: counts them by topic and by route.
        died: how often Kamailio has died while it handled a message, by the message's id.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        *,
        router: Router,
        current: Current,
        committing: Committing,
        gate: Gate,
        verdicts: Verdicts,
        tally: Tally,
        died: Mapping[str, float],
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._host = host
        self._log_policy = host.log_policy
        self._router = router
        self._current = current
        self._committing = committing
        self._gate = gate
        self._verdicts = verdicts
        self._tally = tally
        self._clock = clock
        self._died = died
        #: Messages that were counted as received in the page, and not yet in the server's copy.
        self._ran = 0

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
        if self._host.ending.asked:
            return  # the I/O thread gives back whatever nobody has
        finished = self._settings.ack == "received"
        if finished:
            deliveries = [each for each in deliveries if answers.begin(each) and not self._held(each, answers)]
            for delivery in deliveries:
                answers.finish(delivery)
                if self._log_policy.events:
                    tell(self._host, Handled(delivery=delivery), "finished", "on receipt (NSQ_ACK)")
            answers.settle()  # a native route keeps Python's lock: FIN must have left before, or it waits for the route
        # With NSQ_PUA_REFRESH 0 the route itself refreshes the watchers, so what it wrote must be there by then.
        if len(deliveries) > 1 and self._settings.pua_refresh:
            self._current.begin_batch()
        try:
            # What has been finished cannot be given back, though its topic be held since.
            handled = [*map(self._run, deliveries)] if finished else self._run_ours(deliveries, answers)
            self._mirror_received()  # before a lamp shows that something came
            # First the rows and their NOTIFYs, then FIN: whoever dies in between has the messages come again.
            self._committing.commit([one for one in handled if one.rows])
        finally:
            self._current.end_batch()
            self._current.subject = None
            self._host.page.show(Fact.HANDLING, "")
        self._host.ending.in_order()
        for one in handled:
            self._current.subject = one
            self._verdicts.answer(one, answers)
        self._current.subject = None
        answers.flush()

    def _mirror_received(self) -> None:
        """Count in the server's copy as well, which takes longer than in the page: once for all of a batch."""
        ran, self._ran = self._ran, 0
        if ran:
            self._host.mirror(Counter.RECEIVED, ran)

    def _run_ours(self, deliveries: Sequence[Delivery], answers: Answers) -> list[Handled]:
        """Run the routes of those that were not given back because one of them took too long; return what is left.

        The I/O thread gives back, without a lock, whatever nobody has: so each message is taken before its route runs,
        let go while others run, and taken once more to be committed and answered.
        """
        handled = []
        for delivery in deliveries:
            if self._host.ending.asked:
                break
            if not answers.begin(delivery):
                self._verdicts.lost(Handled(delivery=delivery))
            elif not self._held(delivery, answers):
                handled.append(self._run(delivery))
                answers.set_aside(delivery)
        return [one for one in handled if self._kept(one, answers)]

    def _kept(self, one: Handled, answers: Answers) -> bool:
        kept = answers.keep(one.delivery)
        if not kept:
            self._verdicts.lost(one)
        return kept

    def _held(self, delivery: Delivery, answers: Answers) -> bool:
        """Give a message back whose topic takes nothing now; return whether that was so."""
        held = self._gate.holds(delivery.subscription)
        if held:
            self._verdicts.give_back(Handled(delivery=delivery), answers)
        return held

    def _run(self, delivery: Delivery) -> Handled:
        """Decode a message and run its route; a bug of ours must not take the other messages along."""
        self._host.page.count(Counter.RECEIVED)
        self._ran += 1
        self._host.page.turn()
        self._host.page.handle(delivery.message.message_id)
        one = self._current.subject = Handled(delivery=delivery)
        if self._log_policy.events:
            subscription, attempts = delivery.subscription, delivery.message.attempts
            tell(self._host, one, "received", f"channel {subscription.channel}, attempt {attempts}")
        try:
            if self._died and self._died.get(delivery.message_id, 0) >= DEATHS:
                one.refused = "Kamailio died again and again while it was handled"
                one.counter = Counter.GAVE_UP
            else:
                self._decode_and_run(one)
        except Exception as error:
            one = self._current.subject = Handled(delivery=delivery)  # without what its route has published
            self._committing.bug(one, error)
        self._note(one)
        return one

    def _note(self, one: Handled) -> None:
        """Count how a route has ended, if one ran: then the page says since when."""
        page, delivery = self._host.page, one.delivery
        doing = page.doing
        if doing is None:
            self._tally.came(delivery.subscription, self._clock.wall())
            return
        page.turn()
        end = End.AGAIN if one.again else End.REFUSED if one.refused else End.DONE
        self._tally.came(delivery.subscription, doing.wall)
        self._tally.ran(doing.what, self._clock.monotonic() - doing.since, end)
        page.observe(Stage.NSQ, doing.wall - delivery.message.timestamp_ns / 1e9)

    def _decode_and_run(self, one: Handled) -> None:
        try:
            event = one.event = self._event(one)
        except PayloadError as error:
            one.refused, one.counter = str(error), Counter.INVALID
            return
        if event is None:
            return
        names = self._router.names(event)
        one.route = names[0]
        self._current.begin(one)
        try:
            outcome = self._router.run(names, event)
        finally:
            self._current.end()
        self._judge(one, outcome)

    def _event(self, one: Handled) -> Event | None:
        """Decode a message; None for the replay of what another channel could not use: each has a copy of it."""
        delivery = one.delivery
        one.origin = delivery.origin
        if delivery.subscription.topic == self._settings.replay_topic:
            one.origin = opened(delivery.message.body)
            if one.origin.channel != delivery.subscription.channel:
                return None
            self._host.count(Counter.REPLAYED)
            if self._log_policy.events:
                tell(self._host, one, "replay", f"replay {one.origin.replays} from the dead letters")
        return one.origin.event(attempts=delivery.message.attempts, max_size=self._settings.max_event_size)

    def _judge(self, one: Handled, outcome: Outcome) -> None:
        """Note whose fault it is that a message must come again, if it must, and tell the gate."""
        subscription = one.delivery.subscription
        if one.database:
            self._committing.database_failed([one], one.database)
        elif one.again or outcome is Outcome.REQUEUE:
            one.again = Fault.OWN
            self._gate.route_failed(subscription, one.delivery.message_id)
        elif outcome is Outcome.DONE:
            self._gate.route_succeeded(subscription)
