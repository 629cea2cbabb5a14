# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that finds nsqd and connects to them, for ever.

It is apart from the I/O thread because both, asking nsqlookupd and connecting, may block for seconds.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kemi_nsq.consumer.items import Item, Target
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.host import Level
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import httpapi
from kemi_nsq.nsq import sockets as transport
from kemi_nsq.nsq.limits import reconnect_delay_s
from kemi_nsq.reports import Broken, Report
from kemi_nsq.settings import Settings

CONNECT_TIMEOUT_S = 2.0
LOOKUP_TIMEOUT_S = 2.0
#: Every nsqlookupd is asked this often, and at once when a connection is lost.
LOOKUP_INTERVAL_S = 15.0
#: A nsqd that went away is tried for this long even if no nsqlookupd names it: it may just restart.
REMEMBER_LOST_S = 60.0
_LOG_EVERY = 20


@dataclass(slots=True)
class _Attempt:
    """What is known of a target: connects in a row that failed, when to try next, whether it is open now."""

    failures: int = 0
    due: float = 0.0
    open: bool = False


class Connector(threading.Thread):
    """Keeps one connection for each nsqd and subscription.

    Args:
        settings: addresses.
        subscriptions: what to consume at each of them.
        adopt: takes a connected socket over.
        report: takes what the main thread should log or know.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Sequence[Subscription],
        *,
        adopt: Callable[[Target, transport.Socket], None],
        report: Callable[[Item], None],
    ) -> None:
        super().__init__(name="nsq-connector", daemon=True)
        self._settings = settings
        self._subscriptions = subscriptions
        self._adopt = adopt
        self._report = report
        self._addresses = frozenset[Address]() if settings.lookupd_address else frozenset(settings.nsqd_tcp_address)
        self._attempts: dict[Target, _Attempt] = {}
        self._closed: deque[tuple[Target, bool]] = deque()
        self._lost: dict[Address, float] = {}
        self._lookup_due = 0.0
        self._lookup_problems: list[str] = []
        self._wake = threading.Event()
        self._stopping = False

    def closed(self, target: Target, was_subscribed: bool) -> None:
        """Say, from any thread, that a connection is gone."""
        self._closed.append((target, was_subscribed))
        self._wake.set()

    def stop(self) -> None:
        """End the thread after what it is doing now."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        """Look up, connect and wait, until `stop`; an error of ours is handed to the main thread."""
        try:
            while not self._stopping:
                self._turn()
        except BaseException:  # whatever it is, the main thread must learn that nobody connects any more
            self._report(Broken(trace=traceback.format_exc()))

    def _turn(self) -> None:
        self._wake.clear()
        self._take_closed()
        if self._settings.lookupd_address and time.monotonic() >= self._lookup_due:
            self._look_up()
        for target in self._due_targets():
            if self._stopping:
                return
            self._connect(target)
        self._wake.wait(self._next_due() - time.monotonic())

    def _take_closed(self) -> None:
        while self._closed:
            target, was_subscribed = self._closed.popleft()
            attempt = self._attempts[target]
            attempt.open = False
            # Closed before SUB was accepted is a failure like any other: back off more each time.
            self._back_off(attempt, 1 if was_subscribed else attempt.failures + 1)
            self._lookup_due = 0.0
            self._lost[target.address] = time.monotonic() + REMEMBER_LOST_S

    def _look_up(self) -> None:
        found, problems = httpapi.nodes(self._settings.lookupd_address, timeout_s=LOOKUP_TIMEOUT_S)
        # A nsqlookupd that is down must not make us forget the nsqd that only it knew.
        self._lost = {address: until for address, until in self._lost.items() if until > time.monotonic()}
        self._addresses = found | self._lost.keys() | (self._addresses if problems else frozenset())
        self._lookup_due = time.monotonic() + LOOKUP_INTERVAL_S * random.uniform(0.8, 1.2)
        if problems != self._lookup_problems:
            for text in problems:
                self._report(Report(level=Level.WARNING, text=text, counter=Counter.LOOKUP_FAILED))
            self._lookup_problems = problems

    def _due_targets(self) -> list[Target]:
        wanted = [
            Target(address, subscription) for address in sorted(self._addresses) for subscription in self._subscriptions
        ]
        for gone in [t for t, attempt in self._attempts.items() if t not in wanted and not attempt.open]:
            del self._attempts[gone]
        now = time.monotonic()
        attempts = {target: self._attempts.setdefault(target, _Attempt()) for target in wanted}
        return [target for target, attempt in attempts.items() if not attempt.open and attempt.due <= now]

    def _next_due(self) -> float:
        dues = [attempt.due for attempt in self._attempts.values() if not attempt.open]
        if self._settings.lookupd_address:
            dues.append(self._lookup_due)
        return min(dues, default=time.monotonic() + LOOKUP_INTERVAL_S)

    def _connect(self, target: Target) -> None:
        attempt = self._attempts[target]
        try:
            connected = transport.connect(target.address, CONNECT_TIMEOUT_S)
        except ConnectionLost as error:
            self._back_off(attempt, attempt.failures + 1)
            if attempt.failures % _LOG_EVERY == 1:
                self._report(Report(level=Level.ERROR, text=self._advice(error), counter=Counter.CONNECT_FAILED))
        else:
            attempt.open = True
            self._adopt(target, connected)

    def _back_off(self, attempt: _Attempt, failures: int) -> None:
        attempt.failures = failures
        attempt.due = time.monotonic() + reconnect_delay_s(failures, random.random())

    def _advice(self, error: ConnectionLost) -> str:
        text = f"cannot connect to nsqd {error}; trying again"
        if self._settings.lookupd_address:
            text += " (nsqlookupd announced this address: see nsqd's --broadcast-address)"
        return text
