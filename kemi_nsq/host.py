# SPDX-License-Identifier: GPL-2.0-or-later
"""What this package asks of the SIP server, as a Protocol, and what its threads report, which only the server can log.

`plugin.ksr` does it with Kamailio, `testing` with a dictionary.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from kemi_nsq.counters import Counter
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.runtime.ending import Ending
from kemi_nsq.runtime.page import Page
from kemi_nsq.runtime.place import Place

#: A line is about nothing besides what the main thread has in hand.
NO_FIELDS: JsonObject = MappingProxyType({})


class Level(enum.Enum):
    """Log levels that are used, the most serious first, by Kamailio's names (core/dprint.h)."""

    CRITICAL = "crit"
    ERROR = "err"
    WARNING = "warn"
    INFO = "info"
    DEBUG = "dbg"


_RANKS: Mapping[Level, int] = {level: rank for rank, level in enumerate(Level)}


@dataclass(slots=True)
class LogPolicy:
    """How a process writes its lines. Any thread may read it; to change an attribute is one operation of Python's.

    Attributes:
        as_json: NSQ_LOG_FORMAT is json.
        level: lines up to this one are written, whatever the server's own threshold is; None leaves it to the server.
        events: each step of an event has a line (`kemi-nsq presence log-events`).
        about: returns the fields of what the main thread has in hand.
    """

    as_json: bool = False
    level: Level | None = None
    events: bool = False
    about: Callable[[], JsonObject] = dict

    @property
    def level_name(self) -> str:
        """The name of the level for people, `default` where the server decides."""
        return "default" if self.level is None else self.level.name.lower()

    def admits(self, level: Level) -> bool:
        """Whether a line of a level is written, as far as this process decides it."""
        return self.level is None or _RANKS[level] <= _RANKS[self.level]


class Host(Protocol):
    """The SIP server that loaded this package.

    Attributes:
        page: where a process shows its state; any thread may.
        place: the runtime folder, as soon as it was taken; None where there is none, and then no query is answered.
        ending: how this process ends. Whatever runs native code that may take long says so there.
        log_policy: how lines are written.
    """

    page: Page
    place: Place | None
    ending: Ending
    log_policy: LogPolicy

    def take_run_folder(self, path: str) -> Mapping[str, float]:
        """Hold the runtime folder from now on, and show pages there.

        Returns:
            Message ids to how often a process ended while it handled that message.

        Raises:
            RunFolderError: it cannot be used, or another instance holds it.
        """

    def rank(self) -> int:
        """Return what kind of process this is, by the server's number."""

    def stack_file(self) -> int:
        """Return a descriptor of the file in which this process leaves stacks, -1 for none. Any thread may ask."""

    def version(self) -> str:
        """Return the release of the SIP server, or '' where nobody knows."""

    def log(self, level: Level, text: str) -> None:
        """Write one line to the server's log. The text is never expanded."""

    def log_aside(self, level: Level, text: str, fields: JsonObject = NO_FIELDS) -> None:
        """Write lines to where the server logs, from any thread, also while the main thread is stuck.

        Args:
            level: of the lines; the server's own threshold does not count.
            text: the lines.
            fields: what they are about, besides what `log_policy` knows, for NSQ_LOG_FORMAT json.
        """

    def defines(self) -> Mapping[str, str]:
        """Return the configuration's `#!define` names that start with NSQ_ and their values without quotes."""

    def configuration(self) -> tuple[str, Collection[str]]:
        """Return the path of the configuration file, '' if nobody knows, and all names that its preprocessor has."""

    def defined_before(self) -> Mapping[str, str]:
        """Return what the preprocessor knew before the first line, by the command line or by the server."""

    def consumers(self) -> int | None:
        """Return how many consumer processes the configuration starts; None if nobody knows."""

    def count(self, counter: Counter, number: int = 1) -> None:
        """Add to a counter that the operator can read: in the page, and where `mirror` does."""

    def mirror(self, counter: Counter, number: int = 1) -> None:
        """Add to the server's own copy of a counter, for what another thread or process has counted in its page."""

    def set_variable(self, name: str, value: str) -> None:
        """Set `$var(name)` of the running process."""

    def leave_variable(self, name: str, value: str) -> bool:
        """Set `$var(name)` to what may be long; if there is no room for it, empty it and return False."""

    def variable(self, name: str) -> str:
        """Return `$var(name)` of the running process as text, empty if it is not set."""

    def run_event_route(self, name: str, payload: str) -> bool:
        """Run the native `event_route[name]` with `payload` as `$evr(data)`; return whether there is such a route."""

    def has_event_route(self, name: str) -> bool:
        """Return whether the native configuration has an `event_route[name]`; False if that cannot be found out."""

    def has_route(self, name: str) -> bool:
        """Return whether the native configuration has a `route[name]`."""

    def suspend_transaction(self, route: str, within_s: float) -> Suspended | None:
        """Suspend the SIP transaction that is being handled, to go on in `route`; None if that cannot be.

        The server itself ends it after `within_s`, if it has not gone on by then.
        """

    def continue_transaction(self, suspended: Suspended) -> bool:
        """Run the route of a suspended transaction; return whether the transaction was still there."""

    def resumed_route(self) -> str:
        """Give a transaction that goes on its usual time again; return the name of its route. For Python routes."""

    def try_lock(self, name: str) -> bool | None:
        """Take the lock of this name, which all processes of the server share, if it is free now.

        Returns:
            Whether it was; None if there are no locks.
        """

    def unlock(self, name: str) -> None:
        """Give the lock back."""

    def refresh_watchers(self, presentity_uri: str, package: str) -> bool:
        """Send a NOTIFY with the stored state to each watcher of a presentity; return whether that was accepted."""

    def keep_subscriptions_in_memory(self) -> None:
        """Take the presence module to have subscriptions in its memory: called once, before the server forks."""

    def handle_request(self) -> bool:
        """Have the presence module answer the SUBSCRIBE or PUBLISH that is being handled; return whether it took it.

        Raises:
            UsageError: it is another request, or there is no presence module.
        """

    def wanted_state(self) -> tuple[str, str] | None:
        """Return the presentity's URI and the event package that the request being handled begins to subscribe to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """A SIP transaction that waits for a reply: tm's index and label, and the route in which it goes on."""

    index: int
    label: int
    route: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something for the log, if it has text, and the counters, which only the main thread may write."""

    level: Level = Level.DEBUG
    text: str = ""
    counter: Counter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A thread ended by an error of ours; the main thread must start anew."""

    trace: str
