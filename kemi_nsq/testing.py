# SPDX-License-Identifier: GPL-2.0-or-later
"""Fakes for unit tests of your own handlers, without Kamailio and without nsqd.

host = FakeHost(defines={"NSQ_DB_URL": "sqlite:////tmp/presence.db"})
handler = MyKamailio(host)
"""

from __future__ import annotations

import sys
from collections import Counter as Multiset
from collections.abc import Callable, Collection, Mapping

from kemi_nsq.counters import Counter
from kemi_nsq.host import NO_FIELDS, Level, LogPolicy, Suspended
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.logline import line
from kemi_nsq.runtime.ending import Ending
from kemi_nsq.runtime.page import Page
from kemi_nsq.runtime.place import Place


class _NoEnding(Ending):
    """A test run's signals are its own."""

    def begin(self, tell: Callable[[], None]) -> None:
        """Do nothing."""


class FakeHost:
    """A `host.Host` that remembers what was asked of it, and has only the routes that it was given.

    Args:
        defines: what `#!define` lines of kamailio.cfg would say.
        event_routes: native event routes: a name, and what runs in its place with the host and the payload.

    Attributes:
        page: what was shown, in memory: there is no runtime folder.
        place: None likewise, unless a test gives one: queries go through it.
        ending: never asked to end.
        log_policy: how lines are written; the default is text.
        lines: the log, as (level, text): without what each begins with, but with NSQ_LOG_FORMAT json as it is written.
        counters: how often each counter was raised.
        started: how many consumer processes kamailio.cfg would start, None if nobody knows.
        configuration_file: the path of kamailio.cfg, '' for none.
        variables: the values of `$var(...)`.
        longest: how long a value may be: Kamailio's memory for a process (`-M`) is bounded.
        refreshed: presentity URI and event package of each refresh.
        refresh_accepted: what the presence module answers.
        locked: names of the locks that are held.
        has_locks: whether there are locks.
        locked_elsewhere: names of the locks that others hold.
        routes: names of the native routes that a transaction can go on in.
        transaction: index and label of the SIP transaction that can be suspended, or None.
        suspended_for_s: how long each suspended transaction may wait at most.
        continued: what was continued, with the variables as they were then.
        handled: the locks that were held when a SUBSCRIBE or PUBLISH was handled, for each.
        request_accepted: what the presence module answers.
        in_memory: subscriptions are said to be in the presence module's memory.
        wanted: the presentity and the event package of the SUBSCRIBE that is being handled, or None.
    """

    def __init__(
        self,
        defines: Mapping[str, str] | None = None,
        event_routes: Mapping[str, Callable[[FakeHost, str], None]] | None = None,
    ) -> None:
        self.page = Page()
        self.place: Place | None = None
        self.ending: Ending = _NoEnding()
        self.log_policy = LogPolicy()
        self.event_routes = dict(event_routes or {})
        self.lines: list[tuple[Level, str]] = []
        self.counters: Multiset[Counter] = Multiset()
        self.started: int | None = None
        self.configuration_file = ""
        self.variables: dict[str, str] = {}
        self.longest = sys.maxsize
        self.refreshed: list[tuple[str, str]] = []
        self.refresh_accepted = True
        self.locked: set[str] = set()
        self.has_locks = True
        self.locked_elsewhere: set[str] = set()
        self.routes: set[str] = set()
        self.transaction: tuple[int, int] | None = None
        self.suspended_for_s: list[float] = []
        self.continued: list[tuple[Suspended, dict[str, str]]] = []
        self.handled: list[set[str]] = []
        self.request_accepted = True
        self.in_memory = False
        self.wanted: tuple[str, str] | None = None
        self._defines = dict(defines or {})

    def take_run_folder(self, path: str) -> Mapping[str, float]:
        """Make no folder; no process has ended."""
        return {}

    def rank(self) -> int:
        """Be a process of Kamailio's module evrexec (core/sr_module.h, PROC_RPC)."""
        return -2

    def stack_file(self) -> int:
        """Have none."""
        return -1

    def version(self) -> str:
        """Be of no release."""
        return ""

    def log(self, level: Level, text: str) -> None:
        """Remember a line."""
        self.log_aside(level, text)

    def log_aside(self, level: Level, text: str, fields: JsonObject = NO_FIELDS) -> None:
        """Remember it among the other lines."""
        policy = self.log_policy
        if policy.admits(level):
            self.lines.append((level, line(policy, level, text, fields) if policy.as_json else text))

    def defines(self) -> Mapping[str, str]:
        """Return what was given."""
        return self._defines

    def configuration(self) -> tuple[str, Collection[str]]:
        """Return the file that was given."""
        return self.configuration_file, self._defines

    def defined_before(self) -> Mapping[str, str]:
        """Return what was given."""
        return self._defines

    def consumers(self) -> int | None:
        """Return `started`."""
        return self.started

    def count(self, counter: Counter, number: int = 1) -> None:
        """Add to a counter, and in the page."""
        self.page.count(counter, number)
        self.mirror(counter, number)

    def mirror(self, counter: Counter, number: int = 1) -> None:
        """Add to a counter."""
        self.counters[counter] += number

    def set_variable(self, name: str, value: str) -> None:
        """Set a variable; Kamailio takes no NUL in one."""
        if "\0" in value:
            raise ValueError("embedded null character")
        self.variables[name] = value

    def leave_variable(self, name: str, value: str) -> bool:
        """Set a variable, unless the value is longer than `longest`."""
        fits = len(value) <= self.longest
        self.set_variable(name, value if fits else "")
        return fits

    def variable(self, name: str) -> str:
        """Return a variable, empty if it is not set."""
        return self.variables.get(name, "")

    def run_event_route(self, name: str, payload: str) -> bool:
        """Run the route if it was given."""
        route = self.event_routes.get(name)
        if route is None:
            return False
        route(self, payload)
        return True

    def has_event_route(self, name: str) -> bool:
        """Return whether the route was given."""
        return name in self.event_routes

    def has_route(self, name: str) -> bool:
        """Return whether the route is among `routes`."""
        return name in self.routes

    def suspend_transaction(self, route: str, within_s: float) -> Suspended | None:
        """Suspend the transaction that was given as `transaction`, if there is one."""
        if self.transaction is None:
            return None
        self.suspended_for_s.append(within_s)
        index, label = self.transaction
        return Suspended(index=index, label=label, route=route)

    def continue_transaction(self, suspended: Suspended) -> bool:
        """Remember that a transaction went on, with the variables that its route would see."""
        self.continued.append((suspended, dict(self.variables)))
        return self.transaction == (suspended.index, suspended.label)

    def resumed_route(self) -> str:
        """Return the route of what was continued last."""
        return self.continued[-1][0].route

    def try_lock(self, name: str) -> bool | None:
        """Take a lock if there are any; nobody gives this process one that it has already."""
        if name in self.locked:
            raise RuntimeError(f"deadlock: {name} is locked already")
        if not self.has_locks:
            return None
        if name in self.locked_elsewhere:
            return False
        self.locked.add(name)
        return True

    def unlock(self, name: str) -> None:
        """Give a lock back."""
        self.locked.remove(name)

    def refresh_watchers(self, presentity_uri: str, package: str) -> bool:
        """Remember a refresh and answer `refresh_accepted`."""
        self.refreshed.append((presentity_uri, package))
        return self.refresh_accepted

    def keep_subscriptions_in_memory(self) -> None:
        """Remember it."""
        self.in_memory = True

    def handle_request(self) -> bool:
        """Remember that the request was handled, and which locks were held, and answer `request_accepted`."""
        self.handled.append(set(self.locked))
        return self.request_accepted

    def wanted_state(self) -> tuple[str, str] | None:
        """Return what was given as `wanted`."""
        return self.wanted
