# SPDX-License-Identifier: GPL-2.0-or-later
"""Event routes: which one handles an event, and what it decided.

There are two kinds. A Python handler is a function decorated with `event_route`. A block `event_route[...]` is one of
kamailio.cfg, which the host runs. For each name, the most specific first, a Python handler goes before a block. With
NSQ_PUA_BUILTIN some events of presence need neither.
"""

from __future__ import annotations

import enum
import re
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol, TypeAlias, TypeVar

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.event import Event, normal_name, route_names
from kemi_nsq.host import Host, Level
from kemi_nsq.jsontext import field_text
from kemi_nsq.memory import remember
from kemi_nsq.quiet import Quiet
from kemi_nsq.settings import Settings

Handler: TypeAlias = Callable[[Event], "int | None"]
Decorated = TypeVar("Decorated", bound=Callable[..., object])

#: What kamailio.cfg allows as the name of an event route (core/cfg.lex, EVENT_RT_NAME, which goes on after the colon).
BLOCK_NAME = re.compile(r"[a-z][0-9a-z-]*(:[a-z][0-9a-z_-]*)+")
#: What such a route finds, and may set, in `$var(...)`.
ROUTE_VARIABLES: Mapping[str, str] = {
    "nqE": "the event's payload; `$evr(data)` and, inside quoted strings, `$nqE` are the same",
    "nqTopic": "the topic that it came from",
    "nqChannel": "the channel that it came from",
    "nqAttempts": "how often nsqd has delivered it, 1 for the first time",
    "nqMessageId": "the event's id, nsqd's 16 hexadecimal digits, as it stands in the log",
    "nqReplays": "how often it was replayed from the dead letters, 0 for one that comes as it was published",
    "nqAck": "set it to `requeue` and the event comes again later",
}
#: Events of this category are those that something built in may handle.
BUILT_IN_CATEGORY = "presence"
_ATTRIBUTE = "__kemi_nsq_routes__"
#: Names come from the network, so what is remembered of them is bounded.
_REMEMBERED_MISSES = 1000
_REMEMBERED_UNROUTED = 1000
_LONGEST_NAME = 200
_REMEMBERED_NAMES = 256


class Outcome(enum.Enum):
    """What a route made of an event."""

    MISSING = enum.auto()
    DONE = enum.auto()
    REQUEUE = enum.auto()


class RouteSource(Protocol):
    """Something that may have a route of a given name."""

    def run(self, name: str, event: Event) -> Outcome:
        """Run the route `name`, or return MISSING."""


def event_route(*names: str) -> Callable[[Decorated], Decorated]:
    """Mark a function, or a method of a `KemiNsq` class, as the handler of events.

    It is called with one frozen `Event` (a method with `self` before it). Raising, or returning a negative integer,
    requeues the message; anything else finishes it.

    Args:
        names: route names such as `nsq:consumer-event-presence-update`; case and `_` for `-` do not matter.
    """

    def mark(function: Decorated) -> Decorated:
        setattr(function, _ATTRIBUTE, tuple(normal_name(name) for name in names))
        return function

    return mark


def handlers_of(namespace: Mapping[str, object]) -> dict[str, Handler]:
    """Collect what `event_route` marked among the values of a namespace (a module's, or an object's bound methods)."""
    return {
        name: value  # type: ignore[misc]  # marked functions take an Event, by contract
        for value in namespace.values()
        for name in _marks(value)
    }


def _marks(value: object) -> tuple[str, ...]:
    marks = getattr(value, _ATTRIBUTE, ())
    return marks if isinstance(marks, tuple) else ()  # a proxy or a mock answers to every name


class PythonRoutes:
    """Handlers written in Python.

    Args:
        handlers: what handles an event, by route name.
        host: the SIP server.
    """

    def __init__(self, handlers: Mapping[str, Handler], host: Host) -> None:
        self._handlers = handlers
        self._host = host

    def run(self, name: str, event: Event) -> Outcome:
        """Call the handler of this name; an exception is logged with its traceback and requeues."""
        handler = self._handlers.get(name)
        if handler is None:
            return Outcome.MISSING
        self._host.page.begin(_named(name, event.topic))
        self._host.ending.in_order()
        try:
            result = handler(event)
        except BaseException as error:  # the operator's code: the next event must be handled all the same
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{name} raised {_said(error)} at {where.filename}:{where.lineno} for message {event.message_id}"
            self._host.log(Level.ERROR, text)
            self._host.log(Level.DEBUG, f"message {event.message_id}: {traceback.format_exc()}")
            self._host.count(Counter.ROUTE_FAILED)
            return Outcome.REQUEUE
        return Outcome.REQUEUE if isinstance(result, int) and result < 0 else Outcome.DONE


class KamailioRoutes:
    """`event_route[...]` blocks of kamailio.cfg.

    The route finds the event in `$var(nqE)` and `$evr(data)`, and `$var(nqTopic)`, `$var(nqChannel)`,
    `$var(nqAttempts)`, `$var(nqMessageId)`, `$var(nqReplays)`. It asks for redelivery by `$var(nqAck) = "requeue"`:
    Kamailio does not tell the caller what a route returned.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._misses: OrderedDict[str, None] = OrderedDict()

    def run(self, name: str, event: Event) -> Outcome:
        """Run the block of this name. A name that has none is asked for once and then remembered."""
        if name in self._misses or len(name) > _LONGEST_NAME or not BLOCK_NAME.fullmatch(name):
            return Outcome.MISSING
        attempts, replays = str(event.attempts), str(event.replays)
        values = (event.payload, event.topic, event.channel, attempts, event.message_id, replays, "")
        for variable, value in zip(ROUTE_VARIABLES, values, strict=True):
            self._host.set_variable(variable, value)
        # From here C code runs in this thread, and no other thread of Python does until it calls back or returns. The
        # page is written before: it is all that is left to see if the route never returns.
        self._host.page.begin(_named(name, event.topic))
        if not self._host.run_event_route(name, event.payload):
            remember(self._misses, name, None, most=_REMEMBERED_MISSES)
            return Outcome.MISSING
        return Outcome.REQUEUE if self._host.variable("nqAck") == "requeue" else Outcome.DONE


class BuiltInRoutes:
    """What events of presence are for, done without a route: NSQ_PUA_BUILTIN.

    Args:
        settings: which fields of an event name its route.
        host: the SIP server.
        python: handlers of the same names, which go before.
        functions: what is called, by the event's name. Each logs and counts by itself how it ends, and tells the
            handling what that means for the message: as it does in a native route, which returns nothing.
    """

    def __init__(
        self, settings: Settings, host: Host, python: PythonRoutes, functions: Mapping[str, Callable[[], object]]
    ) -> None:
        self._key, self._subkey = settings.consumer_event_key, settings.consumer_event_subkey
        self._host = host
        self._python = python
        self._functions = functions

    def function(self, event: Event) -> Callable[[], object] | None:
        """Return what is for an event that is theirs alone: of the category presence, and named exactly so."""
        if normal_name(field_text(event.fields, self._key)) != BUILT_IN_CATEGORY:
            return None
        return self._functions.get(normal_name(field_text(event.fields, self._subkey)))

    def run(self, name: str, event: Event, function: Callable[[], object]) -> Outcome:
        """Call the Python handler of this name or, if there is none, what is built in."""
        outcome = self._python.run(name, event)
        if outcome is not Outcome.MISSING:
            return outcome
        self._host.page.begin(_named(name, event.topic))
        function()
        return Outcome.DONE


def _said(error: BaseException) -> str:
    """Return an exception in one line, whatever its own methods do."""
    return traceback.format_exception_only(error)[-1].strip()


@lru_cache(maxsize=_REMEMBERED_NAMES)
def _named(name: str, topic: str) -> str:
    """Name a route for who looks; the same text each time, so that it need not be shown again."""
    return f"{name} of {topic}"


class Router:
    """Finds the route of an event and runs it.

    Args:
        settings: which fields of an event name its route.
        host: the SIP server.
        sources: what may have the route; of one name, the first that has it.
        built_in: takes some events before all sources; None where nothing is built in.
        clock: tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        host: Host,
        sources: Sequence[RouteSource],
        *,
        built_in: BuiltInRoutes | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._key, self._subkey = settings.consumer_event_key, settings.consumer_event_subkey
        self._host = host
        self._log_policy = host.log_policy
        self._sources = sources
        self._built_in = built_in
        self._unrouted: OrderedDict[str, None] = OrderedDict()
        self._quiet = Quiet(host, clock)

    def names(self, event: Event) -> list[str]:
        """List the names under which a route may handle an event, the most specific first."""
        return route_names(event.fields, self._key, self._subkey)

    def run(self, names: Sequence[str], event: Event) -> Outcome:
        """Run the first route that exists under one of `names`; if there is none, that is said once for each name.

        What is built in needs none, and then other names are not looked at.
        """
        if self._built_in is not None and (function := self._built_in.function(event)):
            outcome = self._built_in.run(names[0], event, function)
            if self._log_policy.events:
                self._tell(names[0], event, outcome)
            return outcome
        for name in names:
            outcome = self.run_one(name, event)
            if outcome is not Outcome.MISSING:
                if self._log_policy.events:
                    self._tell(name, event, outcome)
                return outcome
        self._note_unrouted(names[0][:_LONGEST_NAME], event)
        return Outcome.MISSING

    def run_one(self, name: str, event: Event) -> Outcome:
        """Run the route of just this name, if there is one."""
        for source in self._sources:
            outcome = source.run(name, event)
            if outcome is not Outcome.MISSING:
                return outcome
        return Outcome.MISSING

    def _tell(self, name: str, event: Event, outcome: Outcome) -> None:
        """Write how a route ended, a step of the event's way (`eventlog`); with no name, that there is none."""
        said = f"{name}: {outcome.name.lower()}" if name else "there is none, so it is dropped"
        text = f"route: message {event.message_id} of {event.topic}: {said}"
        self._host.log_aside(Level.INFO, text, {"step": "route", "route": name, "outcome": outcome.name.lower()})

    def _note_unrouted(self, name: str, event: Event) -> None:
        if self._log_policy.events:
            self._tell("", event, Outcome.MISSING)
        self._host.count(Counter.UNROUTED)
        if name in self._unrouted:
            return
        remember(self._unrouted, name, None, most=_REMEMBERED_UNROUTED)
        where = f"{event.topic}:{event.channel}"
        shown = name if BLOCK_NAME.fullmatch(name) else repr(name)  # a blank at the end would not be seen
        text = f"no event_route for {shown} from {where}; such events are dropped (message {event.message_id})"
        self._quiet.log(Level.WARNING, Counter.UNROUTED, text)
