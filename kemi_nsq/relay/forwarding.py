# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of the messages that the relay holds: nsqd takes them, or else the outbox, or they wait.

Those of one worker for one topic arrive in the order in which it gave them. So once the outbox has one of them, all
that follow go there, until a consumer has sent what it holds.
"""

from __future__ import annotations

import math

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqdRefused, OutboxError, TransientError
from kemi_nsq.host import Host, Level
from kemi_nsq.nsq.lasting import Lasting
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Batch
from kemi_nsq.quiet import Quiet
from kemi_nsq.relay.backlog import Backlog
from kemi_nsq.runtime.page import Fact


class Forwarding:
    """Sends what a backlog holds.

    Args:
        backlog: holds it.
        host: counts, logs and shows it.
        publisher: takes it.
        outbox: keeps what no nsqd takes, or None.
        clock: tells the time.
    """

    def __init__(
        self, backlog: Backlog, host: Host, publisher: Publisher, outbox: Outbox | None, clock: Clock = SYSTEM
    ) -> None:
        self._backlog = backlog
        self._host = host
        self._publisher = publisher
        self._outbox = outbox
        self._clock = clock
        self._quiet = Quiet(host, clock)
        self._waiting = Lasting()
        #: The outbox has messages that came before those of the backlog.
        self._diverted = False

    def step(self, *, until: float = math.inf) -> bool:
        """Send one batch, or have the outbox keep it; return whether there may be more to do now.

        Args:
            until: monotonic second at which to give up, if that is before NSQ_PUBLISH_TIMEOUT is over.
        """
        batch = self._backlog.first()
        if batch is None:
            return False
        if self._diverted and self._outbox is not None and not self._is_empty(self._outbox):
            return self._keep(self._outbox, batch, "it sends what came before", until)
        try:
            self._publisher.publish(batch if len(batch.sized) > 1 else batch.only(), until=until)
        except NsqdRefused as error:
            self._refused(batch, error)
            return True
        except TransientError as error:
            if self._outbox is None:
                return self._wait(str(error))
            return self._keep(self._outbox, batch, str(error), until)
        self._done(batch, Counter.PUBLISHED, len(batch.sized))
        return True

    def lose(self, more: int) -> None:
        """Count what is still there, and so many more, and say so: this process ends."""
        count = self._backlog.messages + more
        if count:
            self._host.count(Counter.PUBLISH_FAILED, count)
            self._host.log(Level.ERROR, f"{count} messages of the relay are lost: it ends, and nobody took them")

    def _refused(self, batch: Batch, error: NsqdRefused) -> None:
        """Find out which message is wrong by sending each by itself; that one costs no other anything."""
        if len(batch.sized) > 1:
            self._backlog.split()
            return
        self._done(batch, Counter.PUBLISH_FAILED, 1)
        text = f"a message for {batch.topic} that nsq_publish_async took is dropped: nsqd said {error}"
        self._quiet.log(Level.ERROR, "relay refused", text)

    def _keep(self, outbox: Outbox, batch: Batch, why: str, until: float) -> bool:
        kept = 0
        try:
            for sized in batch.sized:
                if self._clock.monotonic() >= until:
                    break
                outbox.keep(Batch(batch.topic, [sized]).only())
                kept += 1
        except OutboxError as error:
            why = f"{why}; {error}"
        if kept:
            self._diverted = True
            self._done(batch, Counter.OUTBOX_KEPT, kept)
        return True if kept == len(batch.sized) else self._wait(why)

    def _is_empty(self, outbox: Outbox) -> bool:
        """Whether a consumer has sent what the outbox had; one that cannot be read keeps nobody from going past it."""
        try:
            self._diverted = outbox.oldest() is not None
        except OutboxError as error:
            self._diverted = False
            self._quiet.log(Level.ERROR, "relay outbox", f"{error}; what comes is sent before what it holds")
        return not self._diverted

    def _done(self, batch: Batch, counter: Counter, count: int) -> None:
        self._backlog.done(count)
        self._host.count(counter, count)
        if self._waiting.over():
            self._host.log(Level.WARNING, "what the relay holds is taken again")
        if self._host.page.shown(Fact.RELAY):
            self._host.page.show(Fact.RELAY, "")

    def _wait(self, why: str) -> bool:
        now = self._clock.monotonic()
        why = f"nobody takes what the relay holds: {why}"
        if self._waiting.lasts(now):
            self._host.log(Level.WARNING, f"{why}; it holds {self._backlog.messages} messages")
        self._host.page.show(Fact.RELAY, self._waiting.told(why, now, self._clock.wall()))
        return False
