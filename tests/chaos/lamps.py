# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones with lamps at both Kamailio, what their lamps show, and what a new SUBSCRIBE makes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.chaos.checks import lamp_error
from tests.chaos.ledger import Ledger
from tests.chaos.stage import Node
from tests.chaos.traffic import BUSY, QUIET
from tests.support.chain import DOMAIN
from tests.support.notify import Notify
from tests.support.subscription import Subscription
from tests.support.watcher import Watcher

#: Who is watched, by package.
WATCHED = {
    "dialog": (*BUSY, *QUIET[:10]),
    "presence": (*BUSY, *QUIET[:3]),
    "message-summary": (*BUSY, *QUIET[:3]),
}
_NOTIFY_S = 3.0
#: Characters of a note.
_LONGEST = 200


@dataclass(slots=True, kw_only=True)
class Lamp:
    """One lamp of a phone.

    Attributes:
        node: where the phone subscribes.
        user: who is watched.
        watcher: the phone.
        subscription: its last one.
    """

    node: str
    user: str
    watcher: Watcher
    subscription: Subscription

    @property
    def last(self) -> Notify | None:
        """The last NOTIFY of its subscription."""
        notifies = self.subscription.notifies
        return notifies[-1] if notifies else None

    def error(self, ledger: Ledger) -> str:
        """Return in words what is wrong with it, '' if it is right."""
        error = lamp_error(ledger, self.user, self.subscription.event, self.last)
        return error and f"at {self.node}: {error}"


class Lamps:
    """All lamps.

    Args:
        made: the lamps.
    """

    def __init__(self, made: Sequence[Lamp]) -> None:
        self._lamps = made
        self._notes: list[str] = []

    def __len__(self) -> int:
        return len(self._lamps)

    def wrong(self, ledger: Ledger) -> list[str]:
        """Return in words what is wrong with the lamps, one for each wrong lamp."""
        return [error for lamp in self._lamps if (error := lamp.error(ledger))]

    def told(self, node: str) -> list[float]:
        """Return when phones at a node were sent a NOTIFY, in order."""
        return sorted(each.received_at for lamp in self._lamps if lamp.node == node for each in _of(lamp))

    def count(self) -> int:
        """Return how many NOTIFYs have come."""
        return sum(len(_of(lamp)) for lamp in self._lamps)

    def subscribe_again(self) -> None:
        """Refresh each subscription, as phones do from time to time; make a new one where Kamailio knows it no more."""
        before = {id(lamp): len(_of(lamp)) for lamp in self._lamps}
        for lamp in self._lamps:
            self._take_errors(lamp)
            try:
                lamp.subscription.refresh(timeout_s=_NOTIFY_S)
            except AssertionError as error:  # refused, or no answer
                self._notes.append(f"at {lamp.node}: {lamp.user} subscribes anew: {error}"[:_LONGEST])
                before[id(lamp)] = 0
                self._take_errors(lamp)
                lamp.subscription = lamp.watcher.subscribe(f"sip:{lamp.user}@{DOMAIN}", lamp.subscription.event)
        _wait(lambda: all(len(_of(lamp)) > before[id(lamp)] for lamp in self._lamps), _NOTIFY_S)

    def notes(self) -> list[str]:
        """Return what phones noticed besides, in words."""
        for lamp in self._lamps:
            self._take_errors(lamp)
        return self._notes

    def unsubscribe(self) -> None:
        """End all subscriptions, without waiting."""
        for lamp in self._lamps:
            lamp.subscription.begin(0)

    def _take_errors(self, lamp: Lamp) -> None:
        """Write down what Kamailio did against the rules of SIP, and go on: a phone does."""
        self._notes += [f"at {lamp.node}: {error[:_LONGEST]}" for error in lamp.watcher.errors]
        lamp.watcher.errors.clear()


@contextmanager
def lamps(nodes: Sequence[Node]) -> Iterator[Lamps]:
    """Subscribe to everybody who is watched at each node, and wait for the first NOTIFYs."""
    watchers = {node.name: Watcher(node.kamailio.sip_target) for node in nodes}
    try:
        made = Lamps([lamp for name, watcher in watchers.items() for lamp in _subscribe(name, watcher)])
        _wait(lambda: made.count() >= len(made), _NOTIFY_S)
        yield made
        made.unsubscribe()
        _wait(lambda: all(lamp.last is None or lamp.last.terminated for lamp in made._lamps), _NOTIFY_S)
    finally:
        for watcher in watchers.values():
            # What it complains of has been taken.
            watcher.errors.clear()
            watcher.__exit__(None, None, None)


def _subscribe(node: str, watcher: Watcher) -> Iterator[Lamp]:
    for package, users in WATCHED.items():
        uris = [f"sip:{user}@{DOMAIN}" for user in users]
        for user, subscription in zip(users, watcher.subscribe_many(uris, package), strict=True):
            yield Lamp(node=node, user=user, watcher=watcher, subscription=subscription)


def _of(lamp: Lamp) -> tuple[Notify, ...]:
    return lamp.subscription.notifies


def _wait(fact: Callable[[], bool], seconds: float) -> None:
    """Wait for a fact for some time; unlike with `until`, it is no error if it does not come true."""
    deadline, nobody_sets_this = time.monotonic() + seconds, threading.Event()
    while not fact() and time.monotonic() < deadline:
        nobody_sets_this.wait(0.05)
