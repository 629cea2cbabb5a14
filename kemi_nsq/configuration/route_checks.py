# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of what the routes of kamailio.cfg call: presence without the lock, names that are none, routes never run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby, takewhile

from kemi_nsq.configuration.finding import Check, DoesNotApply, Finding, Grade, Text
from kemi_nsq.configuration.model import Call
from kemi_nsq.event import ROUTE_PREFIX

_OURS = "route[NSQ_PRESENCE]"
#: What the presence module offers, and what is to be called instead.
_HANDLERS = ("handle_subscribe", "handle_publish")
_BUILT_IN = tuple(f"{ROUTE_PREFIX}-presence-{name}" for name in ("update", "reset"))
_MASK = 0xFFFFFFFF


def _native(text: Text) -> None:
    if text.kemi:
        raise DoesNotApply("routes are written in Python")


def python_calls(text: Text) -> Iterator[Finding]:
    """Find names that none of our functions has: Kamailio looks a name up at its call."""
    _native(text)
    for call in text.configuration.called("python_exec"):
        name = call.arguments[0] if call.arguments else None
        if name and (wrong := text.wrong_function(name)):
            reason, _, mend = wrong.partition("; ")
            yield Finding(Grade.ERROR, f'{call.position}: python_exec("{name}"): {reason}', mend)


def handlers(text: Text) -> Iterator[Finding]:
    """Find routes that have the presence module handle a request without our lock.

    What stands after route(NSQ_PRESENCE) in a route never runs: so it is in Debian's own file with our lines.
    """
    _native(text)
    for _, calls in groupby(text.configuration.calls, key=lambda call: call.route):
        for call in takewhile(lambda call: not _handles(call), calls):
            if call.function not in _HANDLERS:
                continue
            reason = (
                f"{call.position}: {call.function}() without the lock: while a consumer writes, SUBSCRIBEs fail on "
                "SQLite, and a NOTIFY may repeat a CSeq"
            )
            yield Finding(Grade.WARNING, reason, "call route(NSQ_PRESENCE) instead")


def answered(text: Text) -> Iterator[Finding]:
    """Find a presence server that answers no SUBSCRIBE."""
    _native(text)
    if not text.configuration.loads("presence"):
        raise DoesNotApply("presence.so is not loaded")
    if not any(_handles(call) or call.function in _HANDLERS for call in _outside_ours(text)):
        reason = "no route calls route(NSQ_PRESENCE): a SUBSCRIBE is not answered by the presence module"
        yield Finding(Grade.WARNING, reason, "call route(NSQ_PRESENCE) for each SUBSCRIBE and PUBLISH that is for you")


def _outside_ours(text: Text) -> Iterable[Call]:
    return (call for call in text.configuration.calls if call.route != _OURS)


def _handles(call: Call) -> bool:
    """Return whether a call takes NSQ_PUA_LOCK."""
    wanted = {"python_exec": "nsq_pua_handle", "route": "NSQ_PRESENCE"}.get(call.function)
    return wanted is not None and call.arguments[:1] == (wanted,)


def lock_names(text: Text) -> Iterator[Finding]:
    """Find routes that take our lock, or one that is the same one, above all while they call what takes it."""
    _native(text)
    ours = text.valid.pua_lock
    size = 1 << (text.configuration.number("cfgutils", "lock_set_size", 0) or 0)
    for _, calls in groupby(text.configuration.calls, key=lambda call: call.route):
        held: dict[str, Call] = {}
        for call in calls:
            name = call.arguments[0] if len(call.arguments) == 1 else None
            if call.function == "lock" and name:
                held[name] = call
            elif call.function == "unlock" and name == ours and name in held:
                yield _ours(held.pop(ours), Grade.WARNING)
            elif call.function == "unlock" and name:
                held.pop(name, None)
            elif _handles(call) and ours in held:
                yield _ours(held.pop(ours), Grade.ERROR)
            elif _handles(call) and ours:
                yield from (_same(each, ours) for name, each in held.items() if _slot(name, size) == _slot(ours, size))
        if ours in held:
            yield _ours(held[ours], Grade.WARNING)


def _ours(taken: Call, grade: Grade) -> Finding:
    reason = (
        f'{taken.position}: lock("{taken.arguments[0]}"): NSQ_PUA_LOCK is this lock, and nsq_pua_handle, '
        "route(NSQ_PRESENCE) and each consumer take it themselves; called while this route has it, they wait in vain"
    )
    return Finding(grade, reason, "remove it, or use another name")


def _same(taken: Call, ours: str) -> Finding:
    reason = (
        f'{taken.position}: lock("{taken.arguments[0]}") is held while nsq_pua_handle waits for NSQ_PUA_LOCK ({ours}): '
        "of so few locks the two are one"
    )
    return Finding(Grade.ERROR, reason, "unlock before, use another name, or set a larger lock_set_size of cfgutils")


def _slot(name: str, size: int) -> int:
    """Return which of the locks a name is (core/hashes.h, `core_case_hash`; cfgutils has 2 to lock_set_size)."""
    text = name.lower().encode()
    words = [text[at : at + 4] for at in range(0, len(text) - 3, 4)]
    total = 0
    for word in (*words, text[len(words) * 4 :]):
        number = int.from_bytes(word, "big")
        total = (total + (number ^ (number >> 3))) & _MASK
    return (total + (total >> 11) + (total >> 13) + (total >> 23)) & _MASK & (size - 1)


def lock(text: Text) -> Iterator[Finding]:
    """Find consumers and SIP workers that write at once."""
    name = text.valid.pua_lock
    if not text.configuration.loads("presence"):
        raise DoesNotApply("presence.so is not loaded")
    if not name:
        reason = "NSQ_PUA_LOCK is empty: a NOTIFY may repeat a CSeq, and SUBSCRIBEs fail on SQLite"
        yield Finding(Grade.WARNING, reason, '#!define NSQ_PUA_LOCK "presence"')
    elif text.configuration.number("cfgutils", "lock_set_size", 0) in (0, None):
        reason = f"cfgutils: lock_set_size is 0, so there is no lock {name}, and all is done without it"
        yield Finding(Grade.ERROR, reason, 'modparam("cfgutils", "lock_set_size", 4)')


def event_routes(text: Text) -> Iterator[Finding]:
    """Find event routes that no event can reach, and events that no route takes."""
    _native(text)
    ours = [
        name for name in text.configuration.event_routes() if name.lower().replace("_", "-").startswith(ROUTE_PREFIX)
    ]
    for name in ours:
        right = name.lower().replace("_", "-")
        if name != right:
            where = text.configuration.routes[f"event_route[{name}]"][0]
            reason = f"{where}: event_route[{name}] never runs: names are in lower case, with - for _"
            yield Finding(Grade.ERROR, reason, f"event_route[{right}]")
        elif text.valid.pua_builtin and name in _BUILT_IN:
            where = text.configuration.routes[f"event_route[{name}]"][0]
            reason = f"{where}: event_route[{name}] never runs: NSQ_PUA_BUILTIN is 1"
            yield Finding(Grade.WARNING, reason, "remove one of the two")
    if not ours and not text.valid.pua_builtin and text.configuration.loads("evrexec"):
        reason = f"no event_route[{ROUTE_PREFIX}...], and NSQ_PUA_BUILTIN is 0: every event is counted and dropped"
        yield Finding(Grade.WARNING, reason, "#!define NSQ_PUA_BUILTIN 1, or write an event route")


def notify_reply(text: Text) -> Iterator[Finding]:
    """Find NOTIFYs without an answer that nobody counts."""
    _native(text)
    name = "event_route[presence:notify-reply]"
    if not text.configuration.loads("presence") or "NSQ_OWN_NOTIFY_REPLY" not in text.configuration.defines:
        raise DoesNotApply("NSQ_OWN_NOTIFY_REPLY is not defined")
    if not any(call.arguments[:1] == ("notify_unanswered",) for call in text.configuration.called("python_exec")):
        reason = f"NSQ_OWN_NOTIFY_REPLY is defined, and {name} does not call notify_unanswered: nobody counts those"
        yield Finding(Grade.WARNING, reason, "have the lines of nsq.cfg in that route, or leave it to nsq.cfg")


def targets(text: Text) -> Iterator[Finding]:
    """Find queries that go on in a route that is not there."""
    _native(text)
    for call in text.configuration.called("python_exec"):
        if call.arguments[:1] != ("nsq_query_async",) or len(call.arguments) < 2:
            continue
        parts = (call.arguments[1] or "").split(maxsplit=2)
        if (
            len(parts) > 1
            and re.fullmatch(r"[\w.:-]+", parts[1])
            and f"route[{parts[1]}]" not in text.configuration.routes
        ):
            reason = f"{call.position}: nsq_query_async goes on in route[{parts[1]}], and there is none"
            yield Finding(Grade.ERROR, reason, f"write route[{parts[1]}], or correct the name")


CHECKS: tuple[Check[Text], ...] = (
    Check("python-exec", "the functions that python_exec names are there", python_calls, at_start=True),
    Check(
        "handlers", "routes leave handle_subscribe and handle_publish to route(NSQ_PRESENCE)", handlers, at_start=True
    ),
    Check("subscribe-route", "a route calls route(NSQ_PRESENCE)", answered),
    Check("lock", "the lock NSQ_PUA_LOCK is there", lock),
    Check("lock-names", "no route holds that lock, or one that is the same", lock_names, at_start=True),
    Check("event-routes", "event routes can be reached, and events have a route", event_routes),
    Check("notify-reply", "NOTIFYs without an answer are counted", notify_reply),
    Check("query-routes", "the routes in which queries go on are there", targets),
)
