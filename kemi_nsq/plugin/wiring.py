# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place where all parts are made and given to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.chores import Chores
from kemi_nsq.consumer.committing import Committing
from kemi_nsq.consumer.console import Inquiries, Reloadable
from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.handling import EventHandling
from kemi_nsq.consumer.message import Current
from kemi_nsq.consumer.metrics import warning
from kemi_nsq.consumer.notices import Notices
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.consumer.pua_inquiries import PuaInquiries
from kemi_nsq.consumer.routes import (
    BUILT_IN_CATEGORY,
    BuiltInRoutes,
    Handler,
    KamailioRoutes,
    PythonRoutes,
    Router,
    RouteSource,
)
from kemi_nsq.consumer.supervisor import Supervisor
from kemi_nsq.consumer.tally import Tally
from kemi_nsq.consumer.verdict import Verdicts
from kemi_nsq.event import ROUTE_PREFIX
from kemi_nsq.host import Host, Level, Report
from kemi_nsq.nsq.outbox import Outbox, Sender
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Ways
from kemi_nsq.nsq.ways import ways as tcp_or_http
from kemi_nsq.plugin.functions import Calls
from kemi_nsq.plugin.nsq_functions import NsqFunctions
from kemi_nsq.plugin.pua_functions import PuaFunctions
from kemi_nsq.presence.clocks import Clocks
from kemi_nsq.presence.expiry import Expiry
from kemi_nsq.presence.history import History
from kemi_nsq.presence.lock import PresenceLock
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.watchers import Watchers
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.relay.handover import Handover
from kemi_nsq.relay.process import Relay
from kemi_nsq.runtime.page import Fact
from kemi_nsq.settings import Settings

#: No process has ended while it handled a message.
NOBODY: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one Kamailio process uses."""

    host: Host
    current: Current
    calls: Calls
    nsq: NsqFunctions
    pua: PuaFunctions
    lock: PresenceLock
    work: Work
    supervisor: Supervisor
    relay: Relay


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the main thread of a consumer process does; the supervisor says when."""

    handling: EventHandling
    chores: Chores
    gate: Gate
    inquiries: Inquiries
    notices: Notices


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What stores states and tells of them: nothing where NSQ_DB_URL is not set, but the lock and the probe."""

    lock: PresenceLock
    probe: Probe
    watchers: Watchers | None = None
    writer: PresenceWriter | None = None
    expiry: Expiry | None = None
    clocks: Clocks | None = None
    history: History | None = None


def wire(  # noqa: PLR0913  # whatever comes from outside comes in here
    host: Host,
    settings: Settings,
    script: Reloadable,
    *,
    native: bool,
    died: Mapping[str, float] = NOBODY,
    ways: Callable[[Settings], Ways] = tcp_or_http,
    clock: Clock = SYSTEM,
) -> Parts:
    """Build everything. Leaves nothing open: this runs before Kamailio forks.

    Args:
        host: the SIP server.
        settings: what the operator wants.
        script: has the Python event handlers.
        native: whether kamailio.cfg may have `event_route` blocks.
        died: how often Kamailio has died while it handled a message, by the message's id.
        ways: makes the ways to the nsqd to which we publish.
        clock: tells the time.
    """
    # Each process has these objects as they are at the fork: what may not be shared is opened at its first use.
    current, (publisher, nsq, relay) = Current(), _publishing(settings, host, ways, clock)
    host.log_policy.about = current.about
    presence = wire_presence(host, settings, _table(host, settings, clock), publisher, clock)
    pua, calls = _pua_functions(settings, host, current, presence, clock), Calls(host, current, clock)
    router = _router(settings, host, script.handlers, calls, pua, clock=clock, native=native)
    work = _work(host, settings, router, current, presence, publisher, died, script, clock)
    return Parts(
        host=host,
        current=current,
        calls=calls,
        nsq=nsq,
        pua=pua,
        lock=presence.lock,
        work=work,
        supervisor=_supervisor(settings, host, work, presence.clocks, ways, clock),
        relay=relay,
    )


def _publishing(
    settings: Settings, host: Host, ways: Callable[[Settings], Ways], clock: Clock
) -> tuple[Publisher, NsqFunctions, Relay]:
    """Make what workers call and what runs in the relay, which no process uses both of, and what they publish by."""
    publisher = Publisher(settings, clock, ways)
    outbox = _outbox(settings, partial(host.log, Level.WARNING), clock) if settings.outbox else None
    handover = Handover(host.place, settings.publish_timeout)
    functions = NsqFunctions(settings, host, publisher, outbox, handover, clock)
    return publisher, functions, Relay(settings, host, publisher, outbox, clock)


def _pua_functions(settings: Settings, host: Host, current: Current, presence: Presence, clock: Clock) -> PuaFunctions:
    writer, expiry, probe = presence.writer, presence.expiry, presence.probe
    return PuaFunctions(
        settings, host, current, writer=writer, expiry=expiry, probe=probe, lock=presence.lock, clock=clock
    )


def _work(  # noqa: PLR0913, PLR0917  # a part of `wire`
    host: Host,
    settings: Settings,
    router: Router,
    current: Current,
    presence: Presence,
    publisher: Publisher,
    died: Mapping[str, float],
    script: Reloadable,
    clock: Clock,
) -> Work:
    trials = {Kind.DATABASE: presence.writer.trial if presence.writer else _nothing, Kind.DEAD_LETTERS: publisher.trial}
    gate = Gate(host, host.page, trials, backoff_max_s=settings.backoff_max, clock=clock)
    tally = Tally()
    handling = EventHandling(
        settings,
        host,
        router=router,
        current=current,
        committing=Committing(settings, host, presence.writer, gate, current=current, clock=clock),
        gate=gate,
        verdicts=Verdicts(settings, host, gate, DeadLetters(settings, publisher), clock),
        tally=tally,
        died=died,
        clock=clock,
    )
    watchers, expiry, probe = presence.watchers, presence.expiry, presence.probe
    chores = Chores(host, watchers=watchers, expiry=expiry, probe=probe, gate=gate, clock=clock)
    return Work(
        handling=handling,
        chores=chores,
        gate=gate,
        inquiries=_inquiries(settings, host, gate, tally, presence, script, clock),
        notices=Notices(settings, router.run_one, clock),
    )


def _inquiries(  # noqa: PLR0913, PLR0917  # a part of `wire`
    settings: Settings,
    host: Host,
    gate: Gate,
    tally: Tally,
    presence: Presence,
    script: Reloadable,
    clock: Clock,
) -> Inquiries:
    pua = PuaInquiries(settings, host, presence.history, presence.expiry, clock)
    return Inquiries(settings, host, gate, tally, script, at_once=pua.at_once, in_main=pua.in_main)


def _supervisor(  # noqa: PLR0913, PLR0917  # a part of `wire`
    settings: Settings,
    host: Host,
    work: Work,
    clocks: Clocks | None,
    ways: Callable[[Settings], Ways],
    clock: Clock,
) -> Supervisor:
    for line in filter(None, map(warning, settings.metrics_address)):
        host.log(Level.WARNING, line)

    def make_sender(emit: Callable[[Report], None]) -> Sender:
        outbox = _outbox(settings, lambda line: emit(Report(level=Level.WARNING, text=line)), clock)
        # Publisher and outbox are its own: it has a thread of its own.
        return Sender(outbox, Publisher(settings, clock, ways), emit, clock)

    return Supervisor(
        settings,
        host,
        work.handling,
        work.chores,
        work.gate,
        clocks=clocks,
        make_sender=make_sender if settings.outbox else None,
        inquiries=work.inquiries,
        notices=work.notices,
        clock=clock,
    )


def wire_presence(
    host: Host, settings: Settings, table: PresentityTable | None, publisher: Publisher, clock: Clock = SYSTEM
) -> Presence:
    """Build what stores states and tells of them, on a table, or what there is without one."""
    lock = PresenceLock(host, settings.pua_lock, one_writer=table is not None and table.one_writer, clock=clock)
    probe = Probe(settings, publisher, table, clock)
    if table is None:
        return Presence(lock=lock, probe=probe)
    history = History(host, clock)
    watchers = Watchers(settings, host, table, lock=lock, history=history, clock=clock)
    writer = PresenceWriter(settings, host, table, lock=lock, watchers=watchers, history=history, clock=clock)
    expiry = Expiry(settings, host, table, lock=lock, writer=writer, watchers=watchers, clock=clock)
    # Where producers count by themselves, the clocks of nsqd put nothing in order.
    clocks = None if settings.pua_order_field else Clocks(table.search.newest)
    return Presence(
        lock=lock, probe=probe, watchers=watchers, writer=writer, expiry=expiry, clocks=clocks, history=history
    )


def _table(host: Host, settings: Settings, clock: Clock) -> PresentityTable | None:
    if not settings.db_url:
        return None

    def say(line: str) -> None:
        host.log(Level.ERROR, line)
        host.page.show(Fact.DATABASE_FILE, line)

    table = PresentityTable(
        settings.db_url,
        settings.presentity_table,
        "" if settings.subscriptions_in_memory else settings.pua_watchers_table,
        max_dialogs=settings.pua_max_dialogs,
        timeout_s=settings.db_timeout,
        clock=clock,
        say=say,
    )
    table.prepare_file()
    table.fail_fast()
    return table


def _router(  # noqa: PLR0913  # a part of `wire`
    settings: Settings,
    host: Host,
    handlers: Mapping[str, Handler],
    calls: Calls,
    pua: PuaFunctions,
    *,
    clock: Clock,
    native: bool,
) -> Router:
    python = PythonRoutes(handlers, host)
    sources: list[RouteSource] = [python, KamailioRoutes(host)] if native else [python]
    built_in = None
    if settings.pua_builtin:
        functions: dict[str, Callable[[], object]] = {
            "update": partial(calls.call, "nsq_pua_publish", pua.publish, None),
            "reset": partial(calls.call, "nsq_pua_reset", pua.reset, None),
        }
        built_in = BuiltInRoutes(settings, host, python, functions)
        _tell_of_idle_blocks(host, functions)
    return Router(settings, host, sources, built_in=built_in, clock=clock)


def _tell_of_idle_blocks(host: Host, built_in: Iterable[str]) -> None:
    for name in built_in:
        block = f"{ROUTE_PREFIX}-{BUILT_IN_CATEGORY}-{name}"
        if host.has_event_route(block):
            host.log(Level.WARNING, f"event_route[{block}] never runs: NSQ_PUA_BUILTIN is 1; remove one of the two")


def _outbox(settings: Settings, say: Callable[[str], None], clock: Clock) -> Outbox:
    """Make an outbox for one that uses it, a thread at a time; `say` takes its lines."""
    limits = {"max_messages": settings.outbox_messages, "max_bytes": settings.outbox_bytes}
    return Outbox(settings.outbox, **limits, say=say, clock=clock)


def _nothing() -> None:
    """Try a database that is not there: it cannot have failed."""
