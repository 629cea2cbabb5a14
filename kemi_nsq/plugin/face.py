# SPDX-License-Identifier: GPL-2.0-or-later
"""What both objects share that Kamailio's app_python3 may hold: `native.NativeNsq` and `kemi.KemiNsq`.

A method that Kamailio calls returns an int, whatever happens: in Kamailio 5.6 and 5.7 an error left behind in Python
makes the next unrelated call fail. `functions` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import ClassVar, ParamSpec, TypeVar

from kemi_nsq.counters import Counter
from kemi_nsq.errors import RunFolderError, SettingsError
from kemi_nsq.host import Host, Level
from kemi_nsq.loading import host_name, load
from kemi_nsq.plugin.advice import advise
from kemi_nsq.plugin.functions import FAILED, NOT_FOR_ROUTES, OK
from kemi_nsq.plugin.script import Script
from kemi_nsq.plugin.wiring import Parts, wire
from kemi_nsq.settings import INCLUDED, KEMI, Settings

#: core/sr_module.h. Of all processes, tm's timers notice that nobody answers, or that nothing can be sent.
_PROC_TIMER = -1
#: `$var(...)` that is 1 in a timer process.
TIMER_VARIABLE = "nqTimer"

#: A route that Python has run calls python_exec: the inner call gives Python's lock away, and comes back without it.
_THREADS_MODE = (
    "app_python3's threads_mode is 1, and then Kamailio hangs or is aborted when a route that Python has run calls "
    "Python again; allowed: 0, its default"
)

_KEMI_WITHOUT_CLASS = (
    "NSQ_KEMI is defined (with any value, 0 too), so the routes are those of NSQ_SCRIPT, which has no class of "
    "KemiNsq; remove #!define NSQ_KEMI, or let NSQ_SCRIPT name a script of yours"
)
_CLASS_WITHOUT_KEMI = (
    "NSQ_SCRIPT has a class of KemiNsq, and NSQ_KEMI is not defined, so nothing would call it; write #!define NSQ_KEMI "
    'before include_file "nsq.cfg", or let NSQ_SCRIPT name nsq.py'
)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

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


class Face:
    """What both faces share; each gives the functions its shapes."""

    _native = False
    #: Whose parts an object takes over that is made now, instead of making its own.
    _predecessor: ClassVar[Face | None] = None

    def __init__(self, host: Host | None = None) -> None:
        """Read the settings and wire the parts.

        Args:
            host: the SIP server; left out inside Kamailio.

        Raises:
            SystemExit: a setting is wrong, or does not fit this class; app_python3 is set to let threads run; or the
                runtime folder cannot be used. Each problem is logged, and Kamailio does not start. For this exception
                alone it logs no traceback (python_support.c, python_handle_exception).
        """
        before = Face._predecessor
        self._script: Script
        self._parts: Parts
        self._script, self._parts = self._begin(host) if before is None else (before._script, before._parts)
        self._call = self._parts.calls.call

    def _begin(self, host: Host | None) -> tuple[Script, Parts]:
        host = host or _kamailio(native=self._native)
        try:
            settings = load(host.defines(), host_name=host_name())
            host.log_policy.as_json = settings.log_format == "json"
            _check_configuration(host, settings, native=self._native)
            if settings.subscriptions_in_memory:
                host.keep_subscriptions_in_memory()
            died = host.take_run_folder(settings.run_dir)
        except (SettingsError, RunFolderError) as error:
            for problem in getattr(error, "problems", (str(error),)):
                host.log(Level.CRITICAL, problem)
            raise SystemExit(1) from None
        script = Script(self, host)
        parts = wire(host, settings, script, native=self._native, died=died)
        advise(host, settings, self._wrong_function)
        return script, parts

    @staticmethod
    @contextmanager
    def successor_of(face: Face) -> Iterator[None]:
        """Let an object that is made in this block take over the parts of another: `kemi-nsq reload`."""
        Face._predecessor = face
        try:
            yield
        finally:
            Face._predecessor = None

    def child_init(self, rank: int) -> int:
        """Tell a timer process that it is one; everything else opens when it is first used."""
        if not isinstance(rank, int):  # a route calls it, with the message
            return self._parts.calls.unknown("child_init", NOT_FOR_ROUTES)
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

        Releases of Kamailio want different arguments for its locks; this knows which. A lock that is not given is an
        error line and the counter `lock_failed`, and what stands in the block is done without it. With subscriptions in
        memory call `nsq_pua_handle` instead, which sees to it that versions grow.
        """
        return self._parts.lock.held("presence_lock")

    def _handle(self) -> int:
        code = self._call("nsq_pua_handle", self._parts.pua.handle).code
        if code == OK and (wanted := self._parts.host.wanted_state()):
            self._call("nsq_pua_probe", self._parts.pua.probe, *wanted)
        return code

    # Kamailio looks for these whether or not they are wanted; an absent one leaves an error behind (5.6, 5.7).

    def ksr_reply_route(self, _msg: object) -> int:
        """Let every SIP reply pass."""
        return 1

    def ksr_onsend_route(self, _msg: object) -> int:
        """Let every SIP message out."""
        return 1

    def _wrong_function(self, _name: str) -> str:
        """Say what is wrong with a name that a route gives to `python_exec`; '' for nothing."""
        return ""

    def _consume(self) -> int:
        self._parts.supervisor.run_forever()
        return FAILED  # never reached

    def _relay(self) -> int:
        self._parts.relay.run_forever()
        return FAILED  # never reached


def _check_configuration(host: Host, settings: Settings, *, native: bool) -> None:
    """Hold what nsq.cfg has done against what is here; nothing is known of a configuration without it.

    Raises:
        SettingsError: the routes are elsewhere, or there are other consumers than NSQ_CONSUMERS.
    """
    _, defined = host.configuration()
    if INCLUDED in defined and native == (KEMI in defined):
        raise SettingsError([_KEMI_WITHOUT_CLASS if native else _CLASS_WITHOUT_KEMI])
    started = host.consumers()
    if started not in (None, settings.consumers):
        wanted = f"it wants digits, and no name of another define; write #!define NSQ_CONSUMERS {settings.consumers}"
        raise SettingsError([f"NSQ_CONSUMERS is {settings.consumers}, but evrexec starts {started}: {wanted}"])


def _kamailio(*, native: bool) -> Host:
    from kemi_nsq.plugin.ksr import KamailioHost, threads_mode  # KSR exists inside Kamailio only

    host = KamailioHost(native=native)
    if threads_mode():
        host.log(Level.CRITICAL, _THREADS_MODE)
        raise SystemExit(1)
    return host
