# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections a consumer process should have, and when each is tried next: no socket, thread or clock in here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from kemi_nsq.delays import reconnect_delay_s
from kemi_nsq.names import Address, Subscription

#: Every nsqlookupd is asked this often, and at once when a connection is lost.
LOOKUP_INTERVAL_S = 15.0
#: A nsqd that went away is tried for this long even if no nsqlookupd names it: it may just restart.
REMEMBER_LOST_S = 60.0


class Target(NamedTuple):
    """One connection that should exist: an nsqd and what to consume there."""

    address: Address
    subscription: Subscription


@dataclass(slots=True)
class _Attempt:
    """What is known of a target: connects in a row that failed, when to try next, whether it is open now."""

    failures: int = 0
    due: float = 0.0
    open: bool = False


class Targets:
    """One connection for each nsqd and subscription, for ever.

    Times are monotonic seconds; `chance`, between 0 and 1, spreads what many consumers do at once.

    Args:
        addresses: the nsqd that the settings name; more come by `found`.
        subscriptions: what to consume at each of them.
        looks_up: nsqlookupd says which nsqd there are.
    """

    def __init__(self, addresses: Iterable[Address], subscriptions: Sequence[Subscription], *, looks_up: bool) -> None:
        self._addresses = frozenset(addresses)
        self._subscriptions = subscriptions
        self._looks_up = looks_up
        self._attempts: dict[Target, _Attempt] = {}
        self._lost: dict[Address, float] = {}
        self._lookup_due = 0.0

    def look_up_due(self, now: float) -> bool:
        """Whether nsqlookupd shall be asked now."""
        return self._looks_up and now >= self._lookup_due

    def found(self, addresses: Set[Address], *, complete: bool, now: float, chance: float) -> None:
        """Take what nsqlookupd answered; not `complete` if one of several did not."""
        self._lost = {address: until for address, until in self._lost.items() if until > now}
        # A nsqlookupd that is down must not make us forget the nsqd that only it knew.
        known = frozenset[Address]() if complete else self._addresses
        self._addresses = known | addresses | self._lost.keys()
        self._lookup_due = now + LOOKUP_INTERVAL_S * (0.8 + 0.4 * chance)

    def due(self, now: float) -> list[Target]:
        """Return what to connect to now, and forget what nobody wants any more."""
        wanted = [
            Target(address, subscription) for address in sorted(self._addresses) for subscription in self._subscriptions
        ]
        for gone in [t for t, attempt in self._attempts.items() if t not in wanted and not attempt.open]:
            del self._attempts[gone]
        attempts = {target: self._attempts.setdefault(target, _Attempt()) for target in wanted}
        return [target for target, attempt in attempts.items() if not attempt.open and attempt.due <= now]

    def next_due(self, now: float) -> float:
        """Return when there is something to look up or to connect to."""
        dues = [attempt.due for attempt in self._attempts.values() if not attempt.open]
        if self._looks_up:
            dues.append(self._lookup_due)
        return min(dues, default=now + LOOKUP_INTERVAL_S)

    def opened(self, target: Target) -> None:
        """Note that there is a connection."""
        self._attempts[target].open = True

    def failed(self, target: Target, now: float, chance: float) -> int:
        """Note that there is none; return how often in a row that was so."""
        attempt = self._attempts[target]
        self._back_off(attempt, attempt.failures + 1, now, chance)
        return attempt.failures

    def closed(self, target: Target, was_subscribed: bool, now: float, chance: float) -> None:
        """Note that a connection is gone: it is tried again, and nsqlookupd may know more."""
        attempt = self._attempts[target]
        attempt.open = False
        # Closed before SUB was accepted is a failure like any other: back off more each time.
        self._back_off(attempt, 1 if was_subscribed else attempt.failures + 1, now, chance)
        self._lookup_due = 0.0
        self._lost[target.address] = now + REMEMBER_LOST_S

    def _back_off(self, attempt: _Attempt, failures: int, now: float, chance: float) -> None:
        attempt.failures = failures
        attempt.due = now + reconnect_delay_s(failures, chance)
