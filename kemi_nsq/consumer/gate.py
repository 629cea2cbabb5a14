# SPDX-License-Identifier: GPL-2.0-or-later
"""Which topics take nothing now, and why: outages, routes that fail for every event, and an operator's wish.

The policies are `outage` and `backoff`. Here they meet the clock, the trials, the log and the I/O thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from kemi_nsq.clock import SYSTEM, Clock, local_time
from kemi_nsq.consumer.backoff import Backoff
from kemi_nsq.consumer.outage import Kind, Outage
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError
from kemi_nsq.host import Host, Level
from kemi_nsq.names import Subscription
from kemi_nsq.runtime.page import Fact, Page

#: Does what fails in an outage, and leaves no trace; raises NsqError while it fails.
Trial = Callable[[], None]
_FACTS: Mapping[Kind, Fact] = {Kind.DATABASE: Fact.DATABASE, Kind.DEAD_LETTERS: Fact.DEAD_LETTERS}


class Valve(Protocol):
    """Who lets messages of a topic come."""

    def pause(self, subscription: Subscription) -> None:
        """Take nothing more, before any answer that is given after this."""

    def resume(self, subscription: Subscription, limit: int | None = None) -> None:
        """Take messages again: as many as usual, or at most `limit` from each nsqd at a time."""


class Gate:
    """Holds the topics that met an outage, or whose route always fails, until that is over.

    Args:
        host: the SIP server.
        page: shows what holds.
        trials: tell whether an outage is over.
        backoff_max_s: NSQ_BACKOFF_MAX; 0 for no backoff.
        clock: tells the time.
    """

    def __init__(
        self,
        host: Host,
        page: Page,
        trials: Mapping[Kind, Trial],
        *,
        backoff_max_s: float,
        clock: Clock = SYSTEM,
    ) -> None:
        self._host = host
        self._page = page
        self._trials = trials
        self._backoff_max_s = backoff_max_s
        self._clock = clock
        self._outages = {kind: Outage(kind) for kind in Kind}
        self._backoffs: dict[Subscription, Backoff] = {}
        self._paused: set[Subscription] = set()
        self._limits: dict[Subscription, int] = {}
        self._valve: Valve | None = None

    def attach(self, valve: Valve) -> None:
        """Take over a new I/O thread, which lets everything come: pause there what is held."""
        # The I/O thread pauses at its next turn; what nsqd has sent by then is given back by the handling (`holds`).
        self._valve, self._limits = valve, {}
        self._apply()

    def pause(self, subscriptions: Iterable[Subscription]) -> None:
        """Take nothing more of some topics, as their operator wants it; until he has them resumed, or a restart."""
        fresh = [*map(str, set(subscriptions) - self._paused)]
        self._paused.update(subscriptions)
        self._say(Level.WARNING, f"paused by the operator: {', '.join(sorted(fresh))}" if fresh else "")
        self._apply()

    def unpause(self, subscriptions: Iterable[Subscription]) -> None:
        """Take messages of them again, unless something else holds them."""
        known = [*map(str, self._paused & set(subscriptions))]
        self._paused.difference_update(subscriptions)
        self._say(Level.WARNING, f"resumed by the operator: {', '.join(sorted(known))}" if known else "")
        self._apply()

    def holds(self, subscription: Subscription) -> bool:
        """Whether a topic takes nothing now."""
        return self._limits.get(subscription) == 0

    def lasts(self, kind: Kind) -> bool:
        """Whether there is an outage of this kind."""
        return self._outages[kind].lasts

    def doubtful(self, kind: Kind) -> bool:
        """Whether an outage of this kind seemed to be over a moment ago."""
        return self._outages[kind].doubtful

    def failed(self, kind: Kind, met: Iterable[Subscription], cause: str) -> None:
        """Begin an outage, or go on with it, and hold the topics that met it."""
        outage, now = self._outages[kind], self._clock.monotonic()
        if outage.since is None:
            self._host.count(Counter.OUTAGES)
        self._say(Level.ERROR, outage.failed(cause, met, now))
        self._apply()

    def route_failed(self, subscription: Subscription, message_id: str) -> None:
        """Take note of a message whose own fault, or whose route's, it was."""
        if not self._backoff_max_s:
            return
        backoff = self._backoffs.setdefault(subscription, Backoff(subscription, self._backoff_max_s))
        line = backoff.failed(message_id, self._clock.monotonic())
        if line:
            self._host.count(Counter.BACKOFFS)
            self._say(Level.ERROR, line)
        self._apply()

    def route_succeeded(self, subscription: Subscription) -> None:
        """Take note of a message whose route did what it shall do."""
        backoff = self._backoffs.pop(subscription, None)
        if backoff is not None:
            self._say(Level.WARNING, backoff.succeeded(self._clock.monotonic()))
            self._apply()

    def next_due(self) -> float | None:
        """Return the second at which `tick` has something to do."""
        dues = [outage.next_due() for outage in self._outages.values()]
        dues += [backoff.next_due() for backoff in self._backoffs.values()]
        return min((due for due in dues if due is not None), default=None)

    def tick(self) -> None:
        """Make trials, let one message try, and say what is to be said."""
        due = self.next_due()
        if due is None or self._clock.monotonic() < due:
            return
        for outage in self._outages.values():
            if outage.trial_due is not None and self._clock.monotonic() >= outage.trial_due:
                self._try(outage)
            self._say(Level.ERROR if outage.lasts else Level.WARNING, outage.tick(self._clock.monotonic()))
        for backoff in self._backoffs.values():
            self._say(Level.ERROR, backoff.tick(self._clock.monotonic()))
        self._apply()

    def _try(self, outage: Outage) -> None:
        began, cause = self._clock.monotonic(), ""
        try:
            self._trials[outage.kind]()
        except NsqError as error:
            cause = str(error) or type(error).__name__
        now = self._clock.monotonic()
        line = outage.tried(cause, now, took_s=now - began)
        self._say(Level.ERROR if cause else Level.WARNING, line)

    def _say(self, level: Level, line: str) -> None:
        if line:
            self._host.log(level, line)

    def _apply(self) -> None:
        """Tell the I/O thread and the page what has changed."""
        limits = {subscription: each.limit for subscription, each in self._backoffs.items() if each.limit is not None}
        limits |= {subscription: 0 for outage in self._outages.values() for subscription in outage.held}
        limits |= dict.fromkeys(self._paused, 0)
        changed = [each for each in limits | self._limits if limits.get(each) != self._limits.get(each)]
        self._limits = limits
        if self._valve is not None:
            for subscription in changed:
                _turn(self._valve, subscription, limits.get(subscription))
        self._show()

    def _show(self) -> None:
        for kind, outage in self._outages.items():
            since = outage.since if outage.shown else None
            self._show_fact(_FACTS[kind], "" if since is None else f"since {self._wall(since)}: {outage.cause}")
        waiting = [
            f"{each.subscription} until {self._wall(each.until)}"
            if each.until is not None
            else f"{each.subscription}, one on trial"
            for each in self._backoffs.values()
            if each.limit is not None
        ]
        self._show_fact(Fact.BACKOFF, ", ".join(waiting))
        self._show_fact(Fact.PAUSED, ", ".join(sorted(map(str, self._paused))))

    def _show_fact(self, fact: Fact, text: str) -> None:
        if self._page.shown(fact) != text:
            self._page.show(fact, text)

    def _wall(self, second: float) -> str:
        """Write a monotonic second as the operator's clock shows it."""
        return local_time(self._clock.wall() + second - self._clock.monotonic())


def _turn(valve: Valve, subscription: Subscription, limit: int | None) -> None:
    if limit == 0:
        valve.pause(subscription)
    else:
        valve.resume(subscription, limit)
