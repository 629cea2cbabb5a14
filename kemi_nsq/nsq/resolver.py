# SPDX-License-Identifier: GPL-2.0-or-later
"""Host names become addresses, until a deadline: getaddrinfo(3) itself knows none, and may take half a minute.

So a thread asks, and whoever waits for it gives up in time. Who asks for the same name joins the thread that is asking
already. What took long is kept for a while: it may have come when nobody waited any more, and would, each time.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.names import Address

#: Names that are looked up at once. More come from a hostile nsqlookupd only, whose names are looked up by a resolver
#: of its own.
MOST_LOOKUPS = 16
#: Addresses of a name that are tried.
MOST_PLACES = 8
#: An answer that took so many seconds is kept for so many.
SLOW_S, KEPT_S = 0.1, 30.0
LATE = "the name does not resolve in time"


class Place(NamedTuple):
    """An address without a name, as socket(2) and connect(2) take it."""

    family: int
    sockaddr: tuple[Any, ...]


class Lookup:
    """The look-up of one name, which may be over.

    Attributes:
        host: the name.
        done: set when it is over.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._found: list[Place] = []
        self._problem = ""
        self._began = time.monotonic()
        self._kept_until = 0.0
        self._lock = threading.Lock()
        self._told: list[Callable[[], None]] = []
        self.done = threading.Event()

    def run(self) -> None:
        """Look the name up."""
        self._ask(0)

    def try_alone(self) -> bool:
        """End it if nobody needs to be asked: the name is an address itself, or none at all. Return whether it did."""
        self._ask(socket.AI_NUMERICHOST)
        return self.done.is_set()

    def tell(self, told: Callable[[], None]) -> None:
        """Call something, by any thread, when it is over."""
        with self._lock:
            if not self.done.is_set():
                self._told.append(told)
                return
        told()

    def places(self, port: int) -> list[Place]:
        """Return what was found, with this port.

        Raises:
            ConnectionLost: the name does not resolve, or not yet.
        """
        if self._problem or not self.done.is_set():
            raise ConnectionLost(self._problem or LATE)
        return [Place(family, (address, port, *rest)) for family, (address, _, *rest) in self._found]

    def is_current(self, now: float) -> bool:
        """Whether it need not be done again: it is under way, or its answer is kept."""
        return not self.done.is_set() or now < self._kept_until

    def _ask(self, flags: int) -> None:
        try:
            found = socket.getaddrinfo(self.host, 0, type=socket.SOCK_STREAM, flags=flags)
        except OSError as error:
            if flags:
                return
            self._problem = error.strerror or str(error)
        except ValueError:  # UnicodeError: a label of the name is empty or longer than 63 characters
            self._problem = "this is no host name"
        else:
            self._found = [Place(family, tuple(sockaddr)) for family, _, _, _, sockaddr in found[:MOST_PLACES]]
            now = time.monotonic()
            self._kept_until = now + KEPT_S if now - self._began > SLOW_S else 0.0
        with self._lock:
            self.done.set()
        for told in self._told:
            told()


class _Table:
    """The look-ups of one process that are under way, or kept."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.lock = threading.Lock()
        self.lookups: dict[str, Lookup] = {}

    def join(self, lookup: Lookup, now: float) -> Lookup:
        """Return one of the same name that need not be done again, or begin this one; for who has the lock."""
        self.lookups = {host: known for host, known in self.lookups.items() if known.is_current(now)}
        if lookup.host not in self.lookups:
            self._start(lookup)
        return self.lookups[lookup.host]

    def _start(self, lookup: Lookup) -> None:
        if sum(not each.done.is_set() for each in self.lookups.values()) >= MOST_LOOKUPS:
            raise ConnectionLost(f"{MOST_LOOKUPS} other names are being looked up and do not resolve")
        try:
            threading.Thread(target=lookup.run, name="name look-up", daemon=True).start()
        except RuntimeError as error:  # no more threads
            raise ConnectionLost(f"the name cannot be looked up: {error}") from error
        self.lookups[lookup.host] = lookup


class Resolver:
    """Looks names up, each in a daemon thread of its own, at most `MOST_LOOKUPS` at once. Any thread may ask."""

    def __init__(self) -> None:
        self._table = _Table(os.getpid())

    def places(self, address: Address, deadline: float) -> list[Place]:
        """Return where to connect to; wait for it until `time.monotonic()` is `deadline`.

        Raises:
            ConnectionLost: the name does not resolve, or not in time.
        """
        lookup = self.look_up(address)
        lookup.done.wait(max(deadline - time.monotonic(), 0.0))
        return lookup.places(address.port)

    def look_up(self, address: Address) -> Lookup:
        """Return a look-up that is over, or under way.

        Raises:
            ConnectionLost: too many are.
        """
        lookup = Lookup(address.host)
        if lookup.try_alone():
            return lookup
        table = self._table
        if table.pid != os.getpid():
            # Kamailio forks without telling Python, and a script may publish before. The threads stay with the parent,
            # one of which may have had the lock.
            table = self._table = _Table(os.getpid())
        with table.lock:
            return table.join(lookup, time.monotonic())


#: For names that the settings have.
SHARED = Resolver()
