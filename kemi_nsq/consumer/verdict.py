# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a message after its route: FIN, REQ or dead letter; and whose fault a failure was.

Only a failure of the message's own, or of its route, may cost it anything. One of the world, of the database or of
nsqd, has it given back, and that delivery does not count.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.consumer.eventlog import tell
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.message import Delivery, Fault, Handled
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.counters import Counter
from kemi_nsq.delays import requeue_delay_ms
from kemi_nsq.errors import NsqdRefused, TransientError
from kemi_nsq.host import Host, Level
from kemi_nsq.memory import remember
from kemi_nsq.quiet import Quiet
from kemi_nsq.settings import Settings

#: So many messages that were given back are remembered, with how often they were.
_REMEMBERED = 10_000
#: What seems to be over, and meets this message again: others go first. It still comes soon after the true end.
_DOUBTFUL_MAX_MS = 4_000


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


class Verdicts:
    """Answers messages.

    Args:
        settings: what the operator wants.
        host: the SIP server.
        gate: holds topics.
        dead_letters: takes what cannot be used.
        clock: tells the time.
    """

    def __init__(
        self, settings: Settings, host: Host, gate: Gate, dead_letters: DeadLetters, clock: Clock = SYSTEM
    ) -> None:
        self._settings = settings
        self._host = host
        self._log_policy = host.log_policy
        self._gate = gate
        self._dead_letters = dead_letters
        self._quiet = Quiet(host, clock)
        self._given_back: OrderedDict[bytes, int] = OrderedDict()
        self._failed: OrderedDict[bytes, int] = OrderedDict()

    def answer(self, one: Handled, answers: Answers) -> None:
        """Finish a message, let it come again, or give it up."""
        if one.again and self._settings.ack == "received":
            if one.again is Fault.WORLD:
                text = f"the states of message {one.delivery.message_id} are lost: it was finished before (NSQ_ACK)"
                self._quiet.log(Level.ERROR, "lost", text)
            if self._log_policy.events:
                tell(self._host, one, "failed", "it does not come again: it was finished before (NSQ_ACK)")
            return  # nsqd has forgotten it
        if one.again is Fault.WORLD:
            self.give_back(one, answers, doubtful=one.doubtful)
        elif one.again is Fault.OWN:
            self._again(one, answers)
        elif one.refused:
            self._refuse(one, answers)
        else:
            self._finish(one, answers)

    def give_back(self, one: Handled, answers: Answers, *, doubtful: bool = False) -> None:
        """Give a message back by no fault of its own: this delivery does not count.

        At once, so that another consumer of the channel may have it; its topic takes nothing here meanwhile.
        """
        times = self._spare(one)
        self._host.count(Counter.GIVEN_BACK)
        delay_ms = min(requeue_delay_ms(times), _DOUBTFUL_MAX_MS) if doubtful else 0
        if self._log_policy.events:
            why = one.database or "its topic takes nothing now, or the database failed"
            tell(self._host, one, "given back", f"REQ, delay {delay_ms} ms: {why}", {"delay_ms": delay_ms})
        answers.requeue(one.delivery, delay_ms)

    def lost(self, one: Handled) -> None:
        """Take note of a message that was given back while the main thread was busy: that delivery does not count."""
        self._spare(one)
        if self._log_policy.events:
            tell(self._host, one, "given back", "it has waited here for too long (NSQ_ROUTE_TIMEOUT)")

    def _spare(self, one: Handled) -> int:
        """Remember that this delivery of a message does not count, and return how many do not."""
        message_id = one.delivery.message.message_id
        times = self._given_back.get(message_id, 0) + 1
        remember(self._given_back, message_id, times, most=_REMEMBERED)
        return times

    def _finish(self, one: Handled, answers: Answers) -> None:
        message_id = one.delivery.message.message_id
        self._given_back.pop(message_id, None)
        self._failed.pop(message_id, None)
        if self._log_policy.events and self._settings.ack == "processed":
            tell(self._host, one, "finished", "FIN")
        answers.finish(one.delivery)

    def _again(self, one: Handled, answers: Answers) -> None:
        """Let a message come again by its own fault, or give it up.

        Its failures are counted here. nsqd counts deliveries, for whatever reason, so that number would make it pay for
        an outage that another process met, or this one before it was started again.
        """
        message_id = one.delivery.message.message_id
        own = self._failed.get(message_id, 0) + 1
        if own >= self._settings.max_attempts:
            one.refused = f"its route failed, or asked for it again, {own} times"
            one.counter = Counter.GAVE_UP
            self._refuse(one, answers)
            return
        remember(self._failed, message_id, own, most=_REMEMBERED)
        self._host.count(Counter.REQUEUED)
        delay_ms = requeue_delay_ms(own)
        if self._log_policy.events:
            text = f"REQ, delay {delay_ms} ms: failure {own} of {self._settings.max_attempts}"
            tell(self._host, one, "requeued", text, {"delay_ms": delay_ms})
        answers.requeue(one.delivery, delay_ms)

    def _refuse(self, one: Handled, answers: Answers) -> None:
        """Drop a message for good: the dead-letter topic, one line that says which and why, a counter, FIN."""
        delivery = one.delivery
        if self._log_policy.events:
            tell(self._host, one, "refused", one.refused)
        try:
            if self._dead_letters.send(delivery, reason=one.refused, route=one.route, origin=one.origin):
                self._host.count(Counter.DEAD_LETTERS)
                if self._log_policy.events:
                    tell(self._host, one, "dead letter", f"to {self._settings.dead_letter_topic}")
        except NsqdRefused as error:  # too large for nsqd, say: it would be refused for ever
            self._quiet.log(Level.ERROR, "dead letter", f"no dead letter: nsqd said {error} ({one.named})")
        except TransientError as error:
            doubtful = self._gate.doubtful(Kind.DEAD_LETTERS)
            self._gate.failed(Kind.DEAD_LETTERS, [delivery.subscription], str(error))
            if self._settings.ack == "processed":
                self.give_back(one, answers, doubtful=doubtful)
                return
            # nsqd has forgotten the message
            self._quiet.log(Level.ERROR, "dead letter", f"no dead letter: {error} ({one.named})")
        if one.counter is not None:
            text = f"{delivery.subscription} message {delivery.message_id} dropped: {one.refused}"
            self._quiet.log(Level.ERROR, one.counter, text)
            self._host.count(one.counter)
        self._finish(one, answers)
