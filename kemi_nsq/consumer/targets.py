# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections a consumer process should have, and when each is tried next: no socket, thread or clock in here.

nsqlookupd says which nsqd there are, and none of them is trusted to say the truth: their lists are joined so that each
has its share of the connections, whatever the others name; and who is connected stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from kemi_nsq.delays import reconnect_delay_s, retry_delay_s
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.memory import remember
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq.nodes import in_turns

#: A nsqd that went away is tried for this long even if no nsqlookupd names it: it may just restart.
REMEMBER_LOST_S = 60.0
#: A connection that was lost before it stood this long is a failure like any other.
STEADY_S = 5.0
#: Connections to what nsqlookupd named. A process may have 1,024 descriptors where nobody has said otherwise.
MOST_CONNECTIONS = 512
#: Seconds until there may be something to do, if nothing is due.
IDLE_S = 15.0


class Target(NamedTuple):
    """One connection that should exist: an nsqd and what to consume there."""

    address: Address
    subscription: Subscription

    @property
    def fields(self) -> dict[str, JsonValue]:
        """Name it for an event route."""
        return {"Nsqd": str(self.address), "Topic": self.subscription.topic, "Channel": self.subscription.channel}


@dataclass(slots=True)
class _Attempt:
    """What is known of a target.

    Attributes:
        failures: how many in a row.
        due: when to try next.
        begun: somebody is connecting to it.
        open: there is a connection.
        opened_at: since when.
    """

    failures: int = 0
    due: float = 0.0
    begun: bool = False
    open: bool = False
    opened_at: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether it is to be tried when it is due."""
        return not self.open and not self.begun


class Targets:
    """One connection for each nsqd and subscription, for ever.

    Times are monotonic seconds; `chance`, between 0 and 1, spreads what many consumers do at once.

    Args:
        addresses: the nsqd that the settings name; more come by `found`.
        subscriptions: what to consume at each of them.
    """

    def __init__(self, addresses: Iterable[Address], subscriptions: Sequence[Subscription]) -> None:
        self._named = frozenset(addresses)
        self._subscriptions = subscriptions
        self._most = max(1, MOST_CONNECTIONS // max(1, len(subscriptions)))
        #: By the nsqlookupd that named them.
        self._found: dict[Address, list[Address]] = {}
        self._lost: OrderedDict[Address, float] = OrderedDict()
        self._attempts: dict[Target, _Attempt] = {}
        self._wanted: dict[Target, None] = {}
        self._choose()

    def found(self, lookupd: Address, addresses: Sequence[Address], now: float) -> bool:
        """Take what a nsqlookupd answered, and return whether there is room for all of it.

        One that does not answer has what it named last.
        """
        self._lost = OrderedDict((address, until) for address, until in self._lost.items() if until > now)
        before = dict.fromkeys(self._found.get(lookupd, ()))
        connected = {target.address for target, attempt in self._attempts.items() if attempt.open}
        # What it named before and is connected counts, whatever it names now: else new ones would add up.
        kept = [address for address in before if address in connected]
        known = [address for address in addresses if address in before]
        everything = dict.fromkeys(chain(kept, known, addresses))
        self._found[lookupd] = list(islice(everything, self._most))
        chosen = self._choose()
        return all(address in chosen for address in addresses)

    def lookupds(self, address: Address) -> list[Address]:
        """Return the nsqlookupd that have named a nsqd."""
        return [lookupd for lookupd, addresses in self._found.items() if address in addresses]

    def due(self, now: float) -> list[Target]:
        """Return what to connect to now, first what failed least; and forget what nobody wants any more."""
        for gone in [t for t, attempt in self._attempts.items() if t not in self._wanted and attempt.waits]:
            del self._attempts[gone]
        attempts = {target: self._attempts.setdefault(target, _Attempt()) for target in self._wanted}
        due = [target for target, attempt in attempts.items() if attempt.waits and attempt.due <= now]
        return sorted(due, key=lambda target: attempts[target].failures)

    def next_due(self, now: float) -> float:
        """Return when there is something to connect to."""
        dues = (attempt.due for attempt in self._attempts.values() if attempt.waits)
        return min(dues, default=now + IDLE_S)

    def begun(self, target: Target) -> None:
        """Note that somebody is connecting; `opened` or `failed` follows."""
        self._attempts[target].begun = True

    def opened(self, target: Target, now: float) -> None:
        """Note that there is a connection."""
        attempt = self._attempts[target]
        attempt.open, attempt.begun, attempt.opened_at = True, False, now

    def failed(self, target: Target, now: float, chance: float) -> int:
        """Note that there is none; return how often in a row that was so."""
        attempt = self._attempts[target]
        attempt.begun = False
        attempt.failures += 1
        attempt.due = now + reconnect_delay_s(attempt.failures, chance)
        return attempt.failures

    def closed(self, target: Target, was_subscribed: bool, now: float, chance: float) -> None:
        """Note that a connection is gone: it is tried again."""
        attempt = self._attempts[target]
        attempt.open = False
        if was_subscribed and now - attempt.opened_at >= STEADY_S:
            attempt.failures = 0
        attempt.failures += 1
        # One that answers and does not serve is no nsqd that is about to return: it is left alone for longer.
        attempt.due = now + retry_delay_s(attempt.failures, chance)
        if target.address not in self._named:
            remember(self._lost, target.address, now + REMEMBER_LOST_S, most=self._most)
            self._choose()

    def _choose(self) -> frozenset[Address]:
        """Choose the nsqd to connect to."""
        chosen = self._named.union(in_turns([*self._found.values(), self._lost], most=self._most))
        self._wanted = dict.fromkeys(
            Target(address, each) for address in sorted(chosen) for each in self._subscriptions
        )
        return chosen
