# SPDX-License-Identifier: GPL-2.0-or-later
"""The objects that Kamailio's app_python3 holds, and the wiring of everything behind them.

Two kinds of configuration load them: `native` serves a native kamailio.cfg, `kemi` a `cfgengine "python"`.

Here, and nowhere else, an exception becomes a log line and a return code. A method that Kamailio calls returns an
int, whatever happens: in Kamailio 5.6 and 5.7 an error left behind in Python makes the next unrelated call fail. It
never returns 0, which would end the routing script.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, wraps
from types import ModuleType
from typing import ParamSpec, TypeVar

from kemi_nsq.consumer.chores import Chores
from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.handling import EventHandling
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.consumer.routes import Current, Handler, NativeRoutes, PythonRoutes, Router, RouteSource, handlers_of
from kemi_nsq.consumer.supervisor import Supervisor
from kemi_nsq.consumer.verdict import Verdicts
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError, RunFolderError, SettingsError, StoreError
from kemi_nsq.host import Host, Level
from kemi_nsq.jsontext import JsonObject, lookup
from kemi_nsq.loading import host_name, load
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.plugin.nsq_functions import Functions, Published
from kemi_nsq.plugin.pua_functions import PresenceFunctions
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.expiry import Expiry
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.quiet import Quiet
from kemi_nsq.settings import Settings

#: Return codes of all functions, of `nsq_publish` (KEPT) and of `nsq_pua_publish` (the last two).
OK, FAILED, KEPT, NOTHING_TO_DO, DATABASE_ERROR = 1, -1, 2, 2, -2
_PUBLISHED: Mapping[Published, int] = {Published.SENT: OK, Published.KEPT: KEPT}
#: core/sr_module.h. Of all processes, tm's timers notice that nobody answers, or that nothing can be sent.
_PROC_TIMER = -1
#: `$var(...)` that is 1 in a timer process.
TIMER_VARIABLE = "nqTimer"
_STORED: Mapping[Change, int] = {
    Change.STORED: OK,
    Change.HIDDEN: OK,
    Change.UNCHANGED: NOTHING_TO_DO,
    Change.STALE: NOTHING_TO_DO,
}


#: No process has ended while it handled a message.
NOBODY: Mapping[str, float] = {}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one Kamailio process uses."""

    host: Host
    current: Current
    functions: Functions
    presence: PresenceFunctions
    consumer: Supervisor
    quiet: Quiet


#: A call that Python does not inline, so that what it returns is checked.
_checked_call = partial(len, "")


def entry(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a method that `python_exec` calls begin without an error that Kamailio left behind.

    When an argument of `python_exec` is not UTF-8, Kamailio 5.6 does not make the call, and keeps the error: the next
    call, of whatever request, would fail. Python raises it as SystemError (Objects/call.c, _Py_CheckFunctionResult).
    """

    @wraps(method)
    def begin(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:  # noqa: SIM105  # a call of `suppress` would raise it too
            _checked_call()
        except SystemError:
            pass
        return method(*arguments, **named)

    return begin


def wire(
    host: Host, settings: Settings, handlers: Mapping[str, Handler], *, native: bool, died: Mapping[str, float] = NOBODY
) -> Parts:
    """Build everything. Leaves nothing open: this runs before Kamailio forks.

    Args:
        host: the SIP server.
        settings: what the operator wants.
        handlers: Python event handlers by route name.
        native: whether kamailio.cfg may have `event_route` blocks.
        died: how often Kamailio has died while it handled a message, by the message's id.
    """
    current, page, publisher, store = Current(), host.page, Publisher(settings), _store(settings)
    pua = PresenceWriter(settings, host, store)
    upkeep = Expiry(settings, host, store, pua) if store else None
    probe = Probe(settings, publisher, store)
    probes = {Kind.DATABASE: pua.probe, Kind.DEAD_LETTERS: publisher.probe}
    gate = Gate(host, page, probes, backoff_max_s=settings.backoff_max)
    verdicts = Verdicts(settings, host, gate, DeadLetters(settings, publisher))
    router = _router(host, handlers, current, native=native)
    handling = EventHandling(settings, host, router, current, pua, gate=gate, verdicts=verdicts, page=page, died=died)
    chores = Chores(host, pua, upkeep, probe, gate)
    return Parts(
        host=host,
        current=current,
        functions=Functions(settings, host, publisher, _outbox(settings)),
        presence=PresenceFunctions(settings=settings, host=host, current=current, pua=pua, upkeep=upkeep, probe=probe),
        consumer=Supervisor(settings, host, handling, chores, gate, outbox=_outbox(settings)),
        quiet=Quiet(host),
    )


def _router(host: Host, handlers: Mapping[str, Handler], current: Current, *, native: bool) -> Router:
    sources: list[RouteSource] = [PythonRoutes(handlers, host)]
    if native:
        sources.append(NativeRoutes(host))
    return Router(sources, current)


class Plugin:
    """What both kinds of configuration share; `native.NativeNsq` and `kemi.KemiNsq` give it their shapes."""

    _native = False

    def __init__(self, host: Host | None = None) -> None:
        """Read the settings and wire the parts.

        Args:
            host: the SIP server; left out inside Kamailio.

        Raises:
            SystemExit: a setting is wrong, or the runtime folder cannot be used. Each problem is logged, and Kamailio
                does not start. For this exception alone it logs no traceback (python_support.c,
                python_handle_exception).
        """
        host = host or _kamailio(native=self._native)
        try:
            settings = load(host.defines(), host_name=host_name())
        except SettingsError as error:
            for problem in error.problems:
                host.log(Level.CRITICAL, problem)
            raise SystemExit(1) from None
        try:
            died = host.take_run_folder(settings.run_dir)
        except RunFolderError as error:
            host.log(Level.CRITICAL, str(error))
            raise SystemExit(1) from None
        self._parts = wire(host, settings, self._handlers(), native=self._native, died=died)

    def child_init(self, rank: int) -> int:
        """Tell a timer process that it is one; everything else opens when it is first used."""
        if rank == _PROC_TIMER:
            self._parts.host.set_variable(TIMER_VARIABLE, "1")
        return 0

    @entry
    def notify_unanswered(self, _msg: object) -> int:
        """Count a NOTIFY that nobody answered; called by nsq.cfg."""
        self._parts.host.count(Counter.NOTIFY_UNANSWERED)
        return OK

    def presence_lock(self) -> AbstractContextManager[None]:
        """Hold the lock NSQ_PUA_LOCK: `with self.presence_lock(): KSR.presence.handle_subscribe()`.

        Releases of Kamailio want different arguments for its locks; this knows which. A lock that is refused is an
        error line and the counter `lock_failed`, and what stands in the block is done without it.
        """
        return self._parts.presence.locked()

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
        # Looked up in the class first: reading a property would run it.
        methods = {name: getattr(self, name) for name in dir(type(self)) if callable(getattr(type(self), name, None))}
        return handlers_of(vars(module)) | handlers_of(methods)

    def _consume(self) -> int:
        self._parts.consumer.run_forever()
        return FAILED  # never reached

    def _call(self, name: str, failed: Counter, call: Callable[[], int | None]) -> int:
        """Return the code of `call`, OK for None; turn an exception into a log line, a counter and a negative code."""
        try:
            return call() or OK
        except NsqError as error:
            self._report(name, failed, error)
        except Exception as error:  # a bug of ours must not reach Kamailio
            self._parts.host.count(Counter.BUG)
            text = f"{name}: {type(error).__name__}: {error}; please report this"
            self._parts.quiet.log(Level.CRITICAL, Counter.BUG, text, error=error)
        return FAILED

    def _report(self, name: str, failed: Counter, error: NsqError) -> None:
        self._parts.host.count(failed)
        event = self._parts.current.event
        if event and failed is Counter.PUA_DATABASE_ERROR:
            return  # that is an outage, which is told of once for all its events
        where = f" (message {event.message_id} of {event.topic})" if event else ""
        self._parts.quiet.log(Level.ERROR, name, f"{name}: {error}{where}")

    def _pua_publish(self, payload: str | None) -> int:
        presence = self._parts.presence

        def publish() -> int:
            try:
                return _STORED[presence.publish(payload)]
            except StoreError as error:
                self._report("nsq_pua_publish", Counter.PUA_DATABASE_ERROR, error)
                return DATABASE_ERROR

        return self._call("nsq_pua_publish", Counter.PUA_INVALID, publish)

    def _pua_reset(self, scope: str | None) -> int:
        presence = self._parts.presence

        def reset() -> int:
            try:
                return OK if presence.reset(scope) else NOTHING_TO_DO
            except StoreError as error:
                self._report("nsq_pua_reset", Counter.PUA_DATABASE_ERROR, error)
                return DATABASE_ERROR

        return self._call("nsq_pua_reset", Counter.PUA_INVALID, reset)

    def _pua_probe(self, presentity: str, event: str) -> int:
        presence = self._parts.presence
        return self._call(
            "nsq_pua_probe",
            Counter.PUBLISH_FAILED,
            lambda: OK if presence.probe(presentity, event) else NOTHING_TO_DO,
        )

    def _publish(self, topic: str, payload: str | JsonObject, delay_ms: int | None = None) -> int:
        functions = self._parts.functions
        name = "nsq_publish" if delay_ms is None else "nsq_publish_deferred"
        return self._call(
            name, Counter.PUBLISH_FAILED, lambda: _PUBLISHED[functions.publish(topic, payload, delay_ms or 0)]
        )

    def _query(self, topic: str, payload: str | JsonObject, timeout_s: float | None = None) -> str | None:
        replies: list[str] = []
        functions = self._parts.functions
        self._call(
            "nsq_query", Counter.QUERY_FAILED, lambda: replies.append(functions.query(topic, payload, timeout_s))
        )
        return replies[0] if replies else None

    def _query_async(self, topic: str, payload: str | JsonObject, route: str, exists: Callable[[str], bool]) -> int:
        functions = self._parts.functions
        return self._call(
            "nsq_query_async",
            Counter.QUERY_FAILED,
            lambda: functions.query_async(topic, payload, route, exists),
        )

    def _json(self, path: str, payload: str) -> str | None:
        found: list[str | None] = [None]
        self._call("nsq_json", Counter.JSON_FAILED, lambda: found.append(lookup(path, payload)))
        return found[-1]


def _store(settings: Settings) -> PresentityTable | None:
    if not settings.db_url:
        return None
    store = PresentityTable(
        settings.db_url,
        settings.presentity_table,
        settings.pua_watchers_table,
        max_dialogs=settings.pua_max_dialogs,
        timeout_s=settings.db_timeout,
    )
    store.prepare_file()
    store.fail_fast()
    return store


def _outbox(settings: Settings) -> Outbox | None:
    """Return an outbox of its own to each thread that uses one."""
    if not settings.outbox:
        return None
    return Outbox(settings.outbox, max_messages=settings.outbox_messages, max_bytes=settings.outbox_bytes)


def _kamailio(*, native: bool) -> Host:
    from kemi_nsq.plugin.ksr import KamailioHost  # KSR exists inside Kamailio only

    return KamailioHost(native=native)
