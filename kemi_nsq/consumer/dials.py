# SPDX-License-Identifier: GPL-2.0-or-later
"""Connects to many nsqd side by side, so that one that never answers keeps no other waiting.

One thread has all sockets that are connecting; only a name, which may hang, is looked up by a thread of its own.
"""

from __future__ import annotations

import selectors
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from kemi_nsq.consumer.targets import Target
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.nsq import sockets
from kemi_nsq.nsq.resolver import LATE, Lookup, Place, Resolver

#: Seconds that name and connect may take together.
CONNECT_TIMEOUT_S = 2.0
#: How a connect ended.
Outcome: TypeAlias = tuple[Target, sockets.Socket | ConnectionLost]


@dataclass(slots=True, kw_only=True, eq=False)
class _Dial:
    """A connect that is under way.

    Attributes:
        target: what for.
        deadline: monotonic second at which it is given up.
        lookup: of its name, until that is over.
        places: that are still to be tried.
        socket: which is connecting to one.
        try_until: monotonic second until which that one is tried.
        reason: why the last one failed.
    """

    target: Target
    deadline: float
    lookup: Lookup | None = None
    places: list[Place] = field(default_factory=list)
    socket: sockets.Socket | None = None
    try_until: float
    reason: str = "timed out"


class Dials:
    """Connects under way. All but `wake` is for one thread; times are monotonic seconds."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker = sockets.Waker()
        self._selector.register(self._waker, selectors.EVENT_READ, None)
        self._dials: set[_Dial] = set()
        self._ended: list[Outcome] = []

    def begin(self, target: Target, resolvers: Iterable[Resolver], now: float) -> None:
        """Begin a connect; the name is looked up by the first of `resolvers` that has room."""
        deadline = now + CONNECT_TIMEOUT_S
        dial = _Dial(target=target, deadline=deadline, try_until=deadline)
        self._dials.add(dial)
        for resolver in resolvers:
            try:
                dial.lookup = resolver.look_up(target.address)
            except ConnectionLost as error:
                dial.reason = str(error)
            else:
                dial.lookup.tell(self._waker.wake)
                return
        self._waker.wake()  # its failure is an outcome

    def wait(self, until: float, now: float) -> None:
        """Wait for something to happen: an outcome, a call of `wake`, or `until`, a time."""
        dues = [until, *(dial.try_until for dial in self._dials)]
        for key, _ in self._selector.select(max(0.0, min(dues) - now)):
            if key.data is None:
                self._waker.clear()
            else:
                key.data()

    def outcomes(self, now: float) -> list[Outcome]:
        """Return the connects that have ended since the last call."""
        for dial in list(self._dials):
            if dial.lookup is not None and dial.lookup.done.is_set():
                self._resolved(dial, dial.lookup, now)
            elif now >= dial.try_until:
                dial.reason = "timed out" if dial.lookup is None else LATE
                self._hang_up(dial)
                self._next(dial, now)
            elif dial.lookup is None and dial.socket is None:
                self._next(dial, now)
        ended, self._ended = self._ended, []
        return ended

    def wake(self) -> None:
        """End the wait, from any thread."""
        self._waker.wake()

    def close(self) -> None:
        """Give all of them up."""
        for dial in self._dials:
            self._hang_up(dial)
        for _, outcome in self._ended:
            if not isinstance(outcome, ConnectionLost):
                outcome.close()
        self._selector.close()
        self._waker.close()

    def _resolved(self, dial: _Dial, lookup: Lookup, now: float) -> None:
        dial.lookup = None
        try:
            dial.places = lookup.places(dial.target.address.port)
        except ConnectionLost as error:
            dial.reason = str(error)
        self._next(dial, now)

    def _next(self, dial: _Dial, now: float) -> None:
        """Try the next place, with its share of the time, or give up."""
        while dial.places and now < dial.deadline:
            dial.try_until = now + (dial.deadline - now) / len(dial.places)
            place = dial.places.pop(0)
            try:
                dial.socket = sockets.begin_connect(place)
            except ConnectionLost as error:
                dial.reason = str(error)
            else:
                self._selector.register(dial.socket, selectors.EVENT_WRITE, partial(self._answered, dial, dial.socket))
                return
        self._dials.remove(dial)
        self._ended.append((dial.target, ConnectionLost(f"{dial.target.address}: {dial.reason}")))

    def _answered(self, dial: _Dial, connecting: sockets.Socket) -> None:
        self._selector.unregister(connecting)
        dial.socket = None
        try:
            connected = sockets.finish_connect(connecting)
        except ConnectionLost as error:
            dial.reason = str(error)  # the next place is tried when outcomes are asked for
        else:
            self._dials.remove(dial)
            self._ended.append((dial.target, connected))

    def _hang_up(self, dial: _Dial) -> None:
        if dial.socket is not None:
            self._selector.unregister(dial.socket)
            dial.socket.close()
            dial.socket = None
        dial.lookup = None
