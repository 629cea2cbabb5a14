# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of kamailio.cfg as a text: includes, defines, modules, settings, and what it opens to the world."""

from __future__ import annotations

import re
from collections import Counter as Multiset
from collections.abc import Iterator

from kemi_nsq.configuration.finding import CannotLook, Check, DoesNotApply, Finding, Grade, Text
from kemi_nsq.configuration.model import Include
from kemi_nsq.settings import CONFIGURATION_ONLY, KEMI

_OURS, _PRESENCE = "nsq.cfg", "nsq-presence.cfg"
#: What nsq.cfg loads, and we cannot do without.
_NEEDED = ("pv", "tm", "tmx", "htable", "jsonrpcs", "cfgutils", "evrexec", "app_python3")
#: core/pvapi.c; and what python_exec needs besides the text of an event.
_PV_BUFFER, _MARGIN = 8192, 16
#: Addresses of RPC that reach nobody else's machine.
_LOCAL = re.compile(r"^(unixs?|unixd|unix|fifo):|(localhost|127\.[0-9.]+|\[?::1\]?)(:\d+|/.*)?$|^/", re.IGNORECASE)


def oddities(text: Text) -> Iterator[Finding]:
    """Find lines that are not what they seem, and files that are not there."""
    for oddity in text.configuration.oddities:
        unknown = "not understood" in oddity.text
        error = "no such file" in oddity.text or "environment" in oddity.text or "more #!ifdef" in oddity.text
        grade = Grade.UNKNOWN if unknown else Grade.ERROR if error else Grade.WARNING
        yield Finding(grade, f"{oddity.position}: {oddity.text}", "correct that line")
    if not text.configuration.whole:
        raise CannotLook("it is larger than what is read of a configuration")


def doubles(text: Text) -> Iterator[Finding]:
    """Find names that are defined twice."""
    for name, first, second in text.configuration.doubles:
        reason = f"{second}: {name} is defined a second time (first: {first}): Kamailio does not start"
        yield Finding(
            Grade.ERROR, reason, f"remove one, or write #!redefine {name}; -A on the command line counts, too"
        )


def twice(text: Text) -> Iterator[Finding]:
    """Find modules and routes that are there twice."""
    for name, times in Multiset(module.name for module in text.configuration.modules).items():
        if times > 1:
            where = [each.position for each in text.configuration.modules if each.name == name][1]
            reason = f"{where}: {name}.so is loaded a second time: Kamailio does not start"
            yield Finding(Grade.ERROR, reason, "include nsq.cfg and nsq-presence.cfg after your own loadmodule lines")
    for name, places in text.configuration.routes.items():
        if len(places) > 1:
            reason = f"{places[1]}: {name} is there a second time (first: {places[0]}): Kamailio does not start"
            yield Finding(Grade.ERROR, reason, "remove one of the two; for presence:notify-reply NSQ_OWN_NOTIFY_REPLY")


def includes(text: Text) -> Iterator[Finding]:
    """Find a configuration that does not load kemi-nsq, or in another order than it needs."""
    names = [each.path.name for each in text.configuration.includes if each.path]
    missing = [name for name in _NEEDED if not text.configuration.loads(name)]
    if _OURS not in names and missing:
        reason = f"nsq.cfg is not included, so {', '.join(missing)} are not loaded and nothing is consumed"
        yield Finding(Grade.ERROR, reason, 'include_file "nsq.cfg" after your modparam lines and before your routes')
    elif _OURS in names and _PRESENCE in names and names.index(_PRESENCE) > names.index(_OURS):
        reason = "nsq-presence.cfg is included after nsq.cfg, which then has no route[NSQ_PRESENCE]"
        yield Finding(Grade.ERROR, reason, "include nsq-presence.cfg first")


def _include(text: Text) -> Include:
    for each in text.configuration.includes:
        if each.path and each.path.name == _OURS:
            return each
    raise DoesNotApply("nsq.cfg is not included")


def late(text: Text) -> Iterator[Finding]:
    """Find defines that come after the include that looks at them."""
    before = _include(text).defined
    for name, define in text.configuration.defines.items():
        if name in CONFIGURATION_ONLY and name not in before and define.position.file.name != _OURS:
            if define.position.file.name == "nsq-place.cfg":
                continue
            reason = f"{define.position}: {name} is defined after nsq.cfg was included, which looks at it: no effect"
            yield Finding(Grade.ERROR, reason, "move it before the include")


def settings(text: Text) -> Iterator[Finding]:
    """Find settings with which Kamailio does not start."""
    mend = f"correct it; kemi-nsq --config {text.configuration.file} settings shows all"
    for problem in text.problems:
        yield Finding(Grade.ERROR, problem, mend)


def another_script(text: Text) -> Iterator[Finding]:
    """Find a script that is loaded in place of ours: the last one wins (app_python3_mod.c)."""
    scripts = text.configuration.given("app_python3", "load")
    ours = text.configuration.value("NSQ_SCRIPT")
    if scripts and ours and scripts[-1].value != ours:
        reason = f"{scripts[-1].position}: app_python3 loads {scripts[-1].value} instead of NSQ_SCRIPT {ours}"
        mend = "let what is in it be methods of a class of kemi_nsq.NativeNsq in the script of NSQ_SCRIPT"
        yield Finding(Grade.ERROR, f"{reason}: nothing of ours runs", mend)


def routes_in_python(text: Text) -> Iterator[Finding]:
    """Find routes in Python with consumers of native ones, and the other way round."""
    engine = text.engine
    if engine and KEMI not in text.configuration.defines:
        reason = f'{engine.position}: cfgengine "{engine.value}", and NSQ_KEMI is not defined: no consumer starts'
        yield Finding(Grade.ERROR, reason, "#!define NSQ_KEMI before nsq.cfg is included")
    elif text.kemi and "request_route" in text.configuration.routes:
        where = text.configuration.routes["request_route"][0]
        reason = f"{where}: NSQ_KEMI is defined, so request_route never runs"
        yield Finding(Grade.WARNING, reason, "remove one of the two")


def consumer_count(text: Text) -> Iterator[Finding]:
    """Find a number of consumers that evrexec reads otherwise: it knows digits only, and no define of a define."""
    define = text.configuration.defines.get("NSQ_CONSUMERS")
    raw = define.value.strip().strip("\"'") if define else ""
    if define and text.settings and raw != str(text.settings.consumers):
        reason = f"{define.position}: NSQ_CONSUMERS is {raw!r}, of which evrexec makes another number: no start"
        yield Finding(Grade.ERROR, reason, f"#!define NSQ_CONSUMERS {text.settings.consumers}")


def pv_buffer_size(text: Text) -> Iterator[Finding]:
    """Find a buffer that has no room for an event."""
    size = text.configuration.number("", "pv_buffer_size", _PV_BUFFER) or 0
    wanted = text.valid.max_event_size + _MARGIN
    if text.configuration.loads("evrexec") and size < wanted:
        where = text.configuration.place_of("", "pv_buffer_size") or " (its default)"
        reason = f"pv_buffer_size is {size}{where}, below NSQ_MAX_EVENT_SIZE: python_exec fails for a larger event"
        yield Finding(Grade.WARNING, reason, f"pv_buffer_size={wanted}")


def threads_mode(text: Text) -> Iterator[Finding]:
    """Find threads in app_python3, with which a nested call hangs."""
    if text.configuration.number("app_python3", "threads_mode", 0) != 0:
        where = text.configuration.place_of("app_python3", "threads_mode")
        reason = f"app_python3: threads_mode is set{where}: Kamailio hangs, so kemi-nsq does not let it start"
        yield Finding(Grade.ERROR, reason, "remove it; 0 is its default")


def rpc_ports(text: Text) -> Iterator[Finding]:
    """Find RPC that others can reach: who can, can do all."""
    for module, name in (("ctl", "binrpc"), ("ctl", "fifo"), ("jsonrpcs", "dgram_socket"), ("jsonrpcs", "tcp_socket")):
        for each in text.configuration.given(module, name):
            if not _LOCAL.search(each.value):
                reason = f"{each.position}: {module}: {name} {each.value} is open to others, who can do all by RPC"
                yield Finding(Grade.WARNING, reason, "let it be a Unix socket, or an address of loopback")


CHECKS: tuple[Check[Text], ...] = (
    Check("preprocessor", "directives are directives, and included files are there", oddities),
    Check("defines", "no name is defined twice", doubles),
    Check("twice", "no module is loaded twice, and no route is there twice", twice),
    Check("includes", "nsq.cfg is included, after nsq-presence.cfg", includes),
    Check("late-defines", "what nsq.cfg looks at is defined before its include", late, at_start=True),
    Check("settings", "settings have names and values that are allowed", settings),
    Check("another-script", "app_python3 loads NSQ_SCRIPT and nothing else", another_script),
    Check("kemi", "consumers are those of the routes' language (NSQ_KEMI)", routes_in_python),
    Check("consumer-count", "NSQ_CONSUMERS is a number in digits", consumer_count),
    Check("pv-buffer-size", "pv_buffer_size has room for an event", pv_buffer_size),
    Check("threads-mode", "app_python3's threads_mode is 0", threads_mode),
    Check("rpc-ports", "RPC is not open to the world", rpc_ports),
)
