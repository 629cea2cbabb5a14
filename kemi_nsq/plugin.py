# SPDX-License-Identifier: GPL-2.0-or-later
"""The objects that Kamailio's app_python3 holds, and the wiring of everything behind them.

Two kinds of configuration load them. Under a native kamailio.cfg, `python_exec("name", "text")` calls a method of
`NativeNsq` with the SIP message and the text. Under `cfgengine "python"` the operator's class derives from `KemiNsq`.

Here, and nowhere else, an exception becomes a log line and a return code. A method that Kamailio calls returns an
int, whatever happens: in Kamailio 5.6 and 5.7 an error left behind in Python makes the next unrelated call fail. It
never returns 0, which would end the routing script.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from kemi_nsq import settings as table
from kemi_nsq.consumer import Consumer
from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError, SettingsError, StoreError
from kemi_nsq.event import Event, JsonObject, json_object
from kemi_nsq.host import Host, Level
from kemi_nsq.presentity import Order
from kemi_nsq.pua import PresencePublisher
from kemi_nsq.routes import Current, Handler, NativeRoutes, PythonRoutes, Router, RouteSource, handlers_of
from kemi_nsq.settings import Settings
from kemi_nsq.store import Change, PresentityStore
from kemi_nsq.transport import host_name

#: Return codes of `nsq_pua_publish`.
STORED, NOTHING_TO_DO, INVALID, DATABASE_ERROR = 1, 2, -1, -2
_FAILED = -1
_CODES: Mapping[Change, int] = {
    Change.STORED: STORED,
    Change.UNCHANGED: NOTHING_TO_DO,
    Change.STALE: NOTHING_TO_DO,
}
#: Of an event that was not taken from NSQ; sorts before all that were, at the same time.
_NO_MESSAGE_ID = "0" * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one Kamailio process uses."""

    settings: Settings
    host: Host
    current: Current
    pua: PresencePublisher
    consumer: Consumer


def wire(host: Host, settings: Settings, handlers: Mapping[str, Handler], *, native: bool) -> Parts:
    """Build everything. Opens nothing: this runs before Kamailio forks.

    Args:
        host: the SIP server.
        settings: what the operator wants.
        handlers: Python event handlers by route name.
        native: whether kamailio.cfg may have `event_route` blocks.
    """
    current = Current()
    sources: list[RouteSource] = [PythonRoutes(handlers, host)]
    if native:
        sources.append(NativeRoutes(host))
    store = PresentityStore(settings.db_url, settings.presentity_table) if settings.db_url else None
    return Parts(
        settings=settings,
        host=host,
        current=current,
        pua=PresencePublisher(settings, host, store),
        consumer=Consumer(settings, host, Router(sources, current)),
    )


class _Handler:
    """What both kinds of configuration share."""

    _native = False

    def __init__(self, host: Host | None = None) -> None:
        """Read the settings and wire the parts.

        Args:
            host: the SIP server; left out inside Kamailio.

        Raises:
            SystemExit: a setting is wrong. Each problem is logged, and Kamailio does not start. For this exception
                alone it logs no traceback (python_support.c, python_handle_exception).
        """
        host = host or _kamailio()
        try:
            settings = table.load(host.defines(), host_name=host_name())
        except SettingsError as error:
            for problem in error.problems:
                host.log(Level.CRITICAL, problem)
            raise SystemExit(1) from None
        self._parts = wire(host, settings, self._handlers(), native=self._native)

    def child_init(self, _rank: int) -> int:
        """Do nothing in a new process: everything opens when it is first used."""
        return 0

    # Kamailio looks for these whether or not they are wanted; an absent one leaves an error behind (5.6, 5.7).

    def ksr_reply_route(self, _msg: object) -> int:
        """Let every SIP reply pass."""
        return 1

    def ksr_onsend_route(self, _msg: object) -> int:
        """Let every SIP message out."""
        return 1

    def _handlers(self) -> dict[str, Handler]:
        """Collect the event handlers of the class and of the module that defines it."""
        module = sys.modules.get(type(self).__module__, ModuleType("none"))
        methods = {name: getattr(self, name) for name in dir(type(self)) if not name.startswith("_")}
        return handlers_of(vars(module)) | handlers_of(methods)

    def _consume(self) -> int:
        self._parts.consumer.run_forever()
        return _FAILED  # never reached

    def _publish_presence(self, payload: str | None) -> int:
        current = self._parts.current
        try:
            return _CODES[self._parts.pua.publish(_fields(current.event, payload), _order(current.event))]
        except StoreError as error:
            current.store_failed = True
            self._parts.host.count(Counter.PUA_DATABASE_ERROR)
            self._parts.host.log(Level.ERROR, f"nsq_pua_publish: the database failed, nothing stored: {error}")
            return DATABASE_ERROR

    def _guarded(self, name: str, call: Callable[[], int]) -> int:
        """Turn every exception of an entry point into one log line and a negative code."""
        host = self._parts.host
        try:
            return call()
        except PayloadError as error:
            event = self._parts.current.event
            where = f" (message {event.message_id} of {event.topic})" if event else ""
            host.count(Counter.PUA_INVALID)
            host.log(Level.ERROR, f"{name}: {error}{where}")
        except Exception as error:  # a bug of ours must not reach Kamailio
            host.count(Counter.BUG)
            host.log(Level.CRITICAL, f"{name}: {type(error).__name__}: {error}; please report this")
        return _FAILED


class NativeNsq(_Handler):
    """For a native kamailio.cfg: each method is called by `python_exec`."""

    _native = True

    def nsq_consumer(self, _msg: object) -> int:
        """Consume for ever; called once in each evrexec process. Never returns."""
        return self._consume()

    def nsq_pua_publish(self, _msg: object, payload: str | None = None) -> int:
        """Publish the presence that a payload announces: the current event's, or the one given.

        Returns:
            1 stored, 2 nothing to do (stale, duplicate, unchanged), -1 invalid, -2 database error: the event comes
            again.
        """
        return self._guarded("nsq_pua_publish", lambda: self._publish_presence(payload))


class KemiNsq(_Handler):
    """Base of the operator's class under `cfgengine "python"`; `mod_init` returns an instance of it."""

    def ksr_nsq_consumer(self, _msg: object, _index: str) -> int:
        """Consume for ever; called once in each evrexec process. Never returns."""
        return self._consume()

    def nsq_pua_publish(self, payload: str | None = None) -> int:
        """Publish the presence that a payload announces: the current event's, or the one given.

        Returns:
            1 stored, 2 nothing to do (stale, duplicate, unchanged), -1 invalid, -2 database error: the event comes
            again.
        """
        return self._guarded("nsq_pua_publish", lambda: self._publish_presence(payload))


def _fields(event: Event | None, payload: str | None) -> JsonObject:
    """Return the fields of a payload; those of the event being handled are decoded already."""
    if event is not None and payload in (None, event.payload):
        return event.fields
    if payload is None:
        raise PayloadError("outside an event route a payload is needed")
    return json_object(payload)


def _order(event: Event | None) -> Order:
    if event is None:
        return Order(timestamp_ns=time.time_ns(), message_id=_NO_MESSAGE_ID)
    return Order(timestamp_ns=event.timestamp_ns, message_id=event.message_id)


def _kamailio() -> Host:
    from kemi_nsq.ksr import KamailioHost  # KSR exists inside Kamailio only

    return KamailioHost()
