# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that finds nsqd and connects to them, for ever; to which, and when, is decided in `targets`.

It is apart from the I/O thread because both, asking nsqlookupd and connecting, may block for seconds.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Item
from kemi_nsq.consumer.targets import Target, Targets
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.host import Broken, Level, Report
from kemi_nsq.names import Subscription
from kemi_nsq.nsq import httpapi, sockets
from kemi_nsq.settings import Settings

CONNECT_TIMEOUT_S = 2.0
LOOKUP_TIMEOUT_S = 2.0
_LOG_EVERY = 20


class Connector(threading.Thread):
    """Keeps one connection for each nsqd and subscription.

    Args:
        settings: addresses.
        subscriptions: what to consume at each of them.
        adopt: takes a connected socket over.
        emit: takes what the main thread should log or know.
        clock: where this thread looks for the time, and throws dice.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Sequence[Subscription],
        *,
        adopt: Callable[[Target, sockets.Socket], None],
        emit: Callable[[Item], None],
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(name="nsq-connector", daemon=True)
        self._lookupds = settings.lookupd_address
        self._adopt = adopt
        self._emit = emit
        self._clock = clock
        named = () if self._lookupds else settings.nsqd_tcp_address
        #: This thread's alone; what another one has to say about it waits in `_closed`.
        self._targets = Targets(named, subscriptions, looks_up=bool(self._lookupds))
        #: Others append, this thread takes: each is one operation of Python's.
        self._closed: deque[tuple[Target, bool]] = deque()
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
            self._emit(Broken(trace=traceback.format_exc()))

    def _turn(self) -> None:
        # Cleared before `_closed` is looked at: what is said in between costs one turn more, and is not left lying.
        self._wake.clear()
        self._take_closed()
        if self._targets.look_up_due(self._clock.monotonic()):
            self._look_up()
        for target in self._targets.due(self._clock.monotonic()):
            if self._stopping:
                return
            self._connect(target)
        now = self._clock.monotonic()
        self._wake.wait(self._targets.next_due(now) - now)

    def _take_closed(self) -> None:
        while self._closed:
            target, was_subscribed = self._closed.popleft()
            self._targets.closed(target, was_subscribed, self._clock.monotonic(), self._clock.chance())

    def _look_up(self) -> None:
        found, problems = httpapi.nodes(self._lookupds, timeout_s=LOOKUP_TIMEOUT_S)
        self._targets.found(found, complete=not problems, now=self._clock.monotonic(), chance=self._clock.chance())
        if problems != self._lookup_problems:
            for text in problems:
                self._emit(Report(level=Level.WARNING, text=text, counter=Counter.LOOKUP_FAILED))
            self._lookup_problems = problems

    def _connect(self, target: Target) -> None:
        try:
            connected = sockets.connect(target.address, CONNECT_TIMEOUT_S)
        except ConnectionLost as error:
            failures = self._targets.failed(target, self._clock.monotonic(), self._clock.chance())
            if failures % _LOG_EVERY == 1:
                self._emit(Report(level=Level.ERROR, text=self._advice(error), counter=Counter.CONNECT_FAILED))
        else:
            self._targets.opened(target)
            self._adopt(target, connected)

    def _advice(self, error: ConnectionLost) -> str:
        text = f"cannot connect to nsqd {error}; trying again"
        if self._lookupds:
            text += " (nsqlookupd announced this address: see nsqd's --broadcast-address)"
        return text
