# SPDX-License-Identifier: GPL-2.0-or-later
"""The functions that routing logic calls: what each does, with which code it ends, and what counts its failures.

Both faces, `native` and `kemi`, call the work of a function through `Calls`, which holds it against this table. Here,
and nowhere else, an exception becomes a log line and a return code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, ParamSpec, TypeVar

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Current
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError, NsqError
from kemi_nsq.host import Host, Level
from kemi_nsq.plugin.nsq_functions import Published
from kemi_nsq.presence.change import Change
from kemi_nsq.quiet import Quiet

#: Return codes. Never 0, which would end the routing script.
OK, FAILED, KEPT, NOTHING_TO_DO, DATABASE_ERROR = 1, -1, 2, 2, -2

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Failure:
    """How a function ends that raised.

    Attributes:
        counter: counts it.
        code: is returned.
        is_outage: in an event route that is an outage, which the log tells of once for all events.
    """

    counter: Counter
    code: int = FAILED
    is_outage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function.

    Attributes:
        does: what it does, for the reference.
        returns: what its codes mean, for the reference.
        codes: what its work returned, to the code; OK for what is not there.
        failed: how it ends if it failed.
        database_failed: how it ends if the database did, where that is something else.
    """

    does: str
    returns: str
    failed: Failure
    codes: Mapping[object, int] = field(default_factory=dict)
    database_failed: Failure | None = None

    def failure(self, error: NsqError) -> Failure:
        """Return how it ends with an error."""
        return self.database_failed if self.database_failed and isinstance(error, DatabaseError) else self.failed


_PUBLISH_FAILED, _PUA_INVALID = Failure(Counter.PUBLISH_FAILED), Failure(Counter.PUA_INVALID)
_DATABASE_FAILED = Failure(Counter.PUA_DATABASE_ERROR, DATABASE_ERROR, is_outage=True)
_PUBLISHED = "1 nsqd took it, 2 the outbox keeps it until one does, -1 it was not published."
_QUEUED = "1 the relay has it, -1 it was not taken."

FUNCTIONS: Mapping[str, Function] = {
    "nsq_publish": Function(
        does="Publish JSON to a topic, and wait until nsqd has taken it; with NSQ_PUBLISH_WAIT 0 it is "
        "nsq_publish_async.",
        returns=_PUBLISHED,
        codes={Published.KEPT: KEPT},
        failed=_PUBLISH_FAILED,
    ),
    "nsq_publish_async": Function(
        does="Hand JSON for a topic over to the relay, a process that publishes it after all that this worker has "
        "handed over before; nobody waits.",
        returns=_QUEUED,
        failed=_PUBLISH_FAILED,
    ),
    "nsq_publish_deferred": Function(
        does="Publish JSON that nsqd delivers after a delay of up to 3600000 milliseconds.",
        returns=_PUBLISHED,
        codes={Published.KEPT: KEPT},
        failed=_PUBLISH_FAILED,
    ),
    "nsq_query": Function(
        does="Publish a request, a JSON object, and wait for its reply.",
        returns="1 there is a reply, -1 there is none: `$var(nqR)` is empty and `$var(nqErr)` is `timeout`, `no nsqd`, "
        "`bad payload`, `no consumer` or `bad reply`.",
        failed=Failure(Counter.QUERY_FAILED),
    ),
    "nsq_query_async": Function(
        does="Publish a request, a JSON object, and suspend the SIP transaction; it goes on elsewhere when there is a "
        "reply, or none. The route in which it goes on finds `$var(nqR)` and `$var(nqErr)` as after nsq_query.",
        returns="1 the transaction is suspended and will go on there whatever happens, -1 it is not suspended.",
        failed=Failure(Counter.QUERY_FAILED),
    ),
    "nsq_json": Function(
        does="Pick a value from JSON by its path, like `Channels[0].switch_url`; `%` stands for a dot of the key.",
        returns="1 found, -1 missing, null, or no JSON.",
        codes={None: FAILED},
        failed=Failure(Counter.JSON_FAILED),
    ),
    "nsq_pua_publish": Function(
        does="Publish the presence that a payload announces: the current event's, or the one given.",
        returns="1 stored, 2 nothing to do (stale, duplicate, unchanged), -1 invalid, -2 database error: the event "
        "comes again.",
        codes={Change.UNCHANGED: NOTHING_TO_DO, Change.STALE: NOTHING_TO_DO},
        failed=_PUA_INVALID,
        database_failed=_DATABASE_FAILED,
    ),
    "nsq_pua_reset": Function(
        does="End all states of a scope, as if each had been announced: calls terminated, presence closed, mailboxes "
        "empty, contacts expired. The scope is `sender URI`, `user URI`, `realm DOMAIN` or `all`; without one, the "
        "sender of the current event, which can end no other's states.",
        returns="1 done, 2 there were none, -1 no such scope, -2 database error: the event comes again.",
        codes={0: NOTHING_TO_DO},
        failed=_PUA_INVALID,
        database_failed=_DATABASE_FAILED,
    ),
    "nsq_pua_handle": Function(
        does="Have the presence module answer a SUBSCRIBE or PUBLISH (`handle_subscribe`, `handle_publish`) while "
        "nobody else holds NSQ_PUA_LOCK; then do for a new subscription what `nsq_pua_probe` does. A transaction must "
        "be there (`t_newtran`) and is released afterwards (`t_release`).",
        returns="1 done, -1 the presence module refused it and has answered so, or nobody has: it was no such request.",
        codes={False: FAILED},
        failed=Failure(Counter.REQUEST_REFUSED),
    ),
    "nsq_pua_probe": Function(
        does="Ask producers, on NSQ_PROBE_TOPIC, for the state of a presentity that has none. A process does so for "
        "each presentity at most every 30 s.",
        returns="1 a probe left, 2 not needed, -1 it failed.",
        codes={False: NOTHING_TO_DO},
        failed=_PUBLISH_FAILED,
    ),
}


#: Why something of ours is no function of routes.
NOT_FOR_ROUTES = "Kamailio or Python calls this by itself; it is no function for routes"


def no_function(meant: str) -> str:
    """Say in words that there is no function of a name."""
    return f"there is no such function; did you mean {meant}?"


class Done(NamedTuple, Generic[Value]):
    """How a call ended: the code, and what the work returned, None if it raised."""

    code: int
    value: Value | None = None


class Calls:
    """Calls the work of functions.

    Args:
        host: the SIP server.
        current: the message in whose route a function may be called.
        clock: tells the time.
    """

    def __init__(self, host: Host, current: Current, clock: Clock = SYSTEM) -> None:
        self._host = host
        self._current = current
        self._quiet = Quiet(host, clock)

    def call(
        self, name: str, work: Callable[Arguments, Value], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Done[Value]:
        """Do the work of a function, and return how it ended; an exception is logged and counted."""
        # Kamailio called from C, and goes back to C: no exception may cross that (app_python3, python_support.c).
        function = FUNCTIONS[name]
        try:
            value = work(*arguments, **named)
            return Done(function.codes.get(value, OK), value)
        except NsqError as error:
            return Done(self._failed(name, function.failure(error), error))
        except Exception as error:  # a bug of ours must not reach Kamailio
            self._host.count(Counter.BUG)
            text = f"{name}: {type(error).__name__}: {error}{self._where()}; please report this"
            self._quiet.log(Level.CRITICAL, Counter.BUG, text, error=error)
            return Done(FAILED)

    def unknown(self, name: str, why: str) -> int:
        """Say that kamailio.cfg calls a name that is none, and why it is none."""
        self._host.count(Counter.UNKNOWN_FUNCTION)
        self._quiet.log(Level.ERROR, "unknown", f'python_exec("{name}"): {why}{self._where()}')
        return FAILED

    def _failed(self, name: str, failure: Failure, error: NsqError) -> int:
        self._host.count(failure.counter)
        if not (self._current.event and failure.is_outage):
            self._quiet.log(Level.ERROR, name, f"{name}: {error}{self._where()}")
        return failure.code

    def _where(self) -> str:
        """Name the message in whose route a function was called."""
        event = self._current.event
        return f" (message {event.message_id} of {event.topic})" if event else ""
