# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that connects to nsqd, for ever; to which, and when, is decided in `targets`.

It is apart from the I/O thread because it has other things to wait for: connects that are under way (`dials`), and what
nsqlookupd says, which threads of its own ask for (`lookups`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from kemi_nsq.background import Background
from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.dials import Dials
from kemi_nsq.consumer.discovery import Discovery
from kemi_nsq.consumer.lookups import Found, Lookups
from kemi_nsq.consumer.message import Happening, Item, Notice
from kemi_nsq.consumer.targets import Target, Targets
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, TransientError
from kemi_nsq.host import Level, Report
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import sockets
from kemi_nsq.nsq.resolver import SHARED, Resolver
from kemi_nsq.runtime.page import Fact, Page
from kemi_nsq.settings import Settings

#: Of the connects to a nsqd that fail in a row, the first is told and then each of so many: every 3 minutes or so.
LOG_EVERY = 100
_JOIN_S = 5.0


class Connector(Background):
    """Keeps one connection for each nsqd and subscription.

    Args:
        settings: addresses.
        subscriptions: what to consume at each of them.
        adopt: takes a connected socket over.
        page: where it is shown what is wrong with discovery.
        emit: takes what the main thread should log or know.
        clock: where this thread looks for the time, and throws dice.
    """

    def __init__(  # noqa: PLR0913  # the supervisor passes each part in
        self,
        settings: Settings,
        subscriptions: Sequence[Subscription],
        *,
        adopt: Callable[[Target, sockets.Socket], None],
        page: Page,
        emit: Callable[[Item], None],
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__("nsq-connector", emit)
        lookupds = settings.lookupd_address
        self._adopt = adopt
        self._page = page
        self._emit = emit
        self._clock = clock
        #: These are this thread's alone; what others have to say waits in the two below.
        self._targets = Targets(() if lookupds else settings.nsqd_tcp_address, subscriptions)
        self._discovery = Discovery()
        self._dials = Dials()
        #: Names that a hostile nsqlookupd made up must not keep those of another waiting.
        self._resolvers = {lookupd: Resolver() for lookupd in lookupds}
        self._lookups = [Lookups(each, found=self._found, emit=emit, clock=clock) for each in lookupds]
        #: Others append, this thread takes: each is one operation of Python's.
        self._closed: deque[tuple[Target, bool]] = deque()
        #: The last answer of each nsqlookupd that this thread has not seen.
        self._answers: dict[Address, Found] = {}

    def closed(self, target: Target, was_subscribed: bool) -> None:
        """Say, from any thread, that a connection is gone."""
        self._closed.append((target, was_subscribed))
        self._dials.wake()

    def stop(self) -> None:
        """End the thread after what it is doing now."""
        super().stop()
        self._dials.wake()

    def _work(self) -> None:
        for lookups in self._lookups:
            lookups.start()
        while not self._stopping.is_set():
            self._turn()

    def _end(self) -> None:
        for lookups in self._lookups:
            lookups.stop()
        for lookups in self._lookups:
            if lookups.is_alive():  # not so if no thread could be started
                lookups.join(_JOIN_S)
        self._dials.close()
        self._page.show(Fact.DISCOVERY, "")

    def _turn(self) -> None:
        now = self._clock.monotonic()
        self._take_closed(now)
        self._take_answers(now)
        for target in self._targets.due(now):
            self._targets.begun(target)
            resolvers = [self._resolvers[lookupd] for lookupd in self._targets.lookupds(target.address)]
            self._dials.begin(target, resolvers or [SHARED], now)
        self._dials.wait(self._targets.next_due(now), self._clock.monotonic())
        now = self._clock.monotonic()
        for target, outcome in self._dials.outcomes(now):
            if isinstance(outcome, ConnectionLost):
                self._failed(target, outcome, now)
            else:
                self._targets.opened(target, now)
                self._adopt(target, outcome)

    def _found(self, found: Found) -> None:
        """Take, from the thread that asked, what a nsqlookupd said."""
        self._answers[found.lookupd] = found
        self._dials.wake()

    def _take_closed(self, now: float) -> None:
        while self._closed:
            target, was_subscribed = self._closed.popleft()
            self._targets.closed(target, was_subscribed, now, self._clock.chance())

    def _take_answers(self, now: float) -> None:
        while self._answers:
            lookupd, found = self._answers.popitem()
            if isinstance(found.listed, TransientError):
                reports = self._discovery.failed(lookupd, found.listed)
            else:
                room = self._targets.found(lookupd, found.listed.addresses, now)
                reports = self._discovery.answered(lookupd, found.listed, room=room)
            self._page.show(Fact.DISCOVERY, self._discovery.wrong)
            for report in reports:
                self._emit(report)

    def _failed(self, target: Target, error: ConnectionLost, now: float) -> None:
        failures = self._targets.failed(target, now, self._clock.chance())
        if failures % LOG_EVERY == 1:
            text = f"cannot connect to nsqd {error}; trying again"
            if self._lookups:
                text += " (nsqlookupd announced this address: see nsqd's --broadcast-address)"
            report = Report(level=Level.ERROR, text=text, counter=Counter.CONNECT_FAILED)
            self._emit(Notice(happening=Happening.UNREACHABLE, report=report, fields=target.fields))
