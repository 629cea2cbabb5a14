# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference page, made from the code: settings, functions, variables, event routes and counters.

A test compares `docs/reference.md` with what this module writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence

from kemi_nsq.consumer.notices import PREFIX, ROUTES
from kemi_nsq.consumer.routes import ROUTE_VARIABLES
from kemi_nsq.counters import Counter
from kemi_nsq.event import ROUTE_PREFIX, Event, route_names
from kemi_nsq.loading import value_text
from kemi_nsq.plugin.functions import FUNCTIONS
from kemi_nsq.plugin.kemi import KemiNsq
from kemi_nsq.plugin.native import NativeNsq
from kemi_nsq.settings import CONFIGURATION_ONLY, allowed, rows

_HEAD = """\
# Reference

Made from the code by `make docs`; do not edit.

"""
_SETTINGS = """\
## Settings

Each is set by `#!define NAME value` in kamailio.cfg before `include_file "nsq.cfg"`, by `kamailio -A NAME=value`, or
in the environment; the first two win. A wrong value, or an unknown name that starts with `NSQ_`, stops Kamailio at
start with one line for each. `kemi-nsq settings` checks and shows what the environment sets, with `--config FILE`
before the verb what that kamailio.cfg does.

"""
_DEFINES = """
These are for `nsq.cfg` and `nsq-presence.cfg`, so they are defined before the include:

"""
_FUNCTIONS = """\
## Functions

In a native kamailio.cfg each is called as `python_exec("name", "text")`. In a Python script (`cfgengine "python"`) each
is a method that is inherited from `KemiNsq`. What failed is counted, and said in the log: once for all events of an
outage, and of many lines of one kind the first twenty in ten seconds.

"""
_HANDLERS = """\
## Event handlers of a Python script

A method with `@event_route("nsq:consumer-event-...")` is called with an `Event`. A negative result, or an exception,
has nsqd deliver the message again.

"""
_ROUTES = """\
## Event routes

For an event whose `{key}` is `Presence` and whose `{subkey}` is `Update_All` these are tried, in this order; the
first that exists handles it. A missing field skips the names that need it. With `NSQ_PUA_BUILTIN=1` an event of the
category `presence` that is named just `update` or `reset` needs no route, and none but a Python handler of the first of
its names sees it.

"""


_NOTICES = """\
## What happens besides events

These routes, native or in Python, run in a consumer process when something happens to it. Each finds a JSON object, as
an event route does, with `Event-Category` `nsq`, `Event-Name` and `Node`. What it returns has no effect.

"""

#: Methods that an operator calls, besides those that begin with `nsq_`.
_MORE = frozenset({"ksr_nsq_reset", "presence_lock"})
#: Those that only a script can use.
_PYTHON_ONLY = frozenset({"presence_lock"})


def markdown() -> str:
    """Return the whole page."""
    sections = [
        _HEAD,
        _SETTINGS
        + _table(("setting", "default", "allowed", "meaning"), _setting_rows())
        + _DEFINES
        + _table(("define", "does"), ((f"`{name}`", does) for name, does in CONFIGURATION_ONLY.items())),
        _FUNCTIONS + "\n".join(map(_function, _function_names())),
        _HANDLERS + _table(("field of `Event`", "holds"), _attribute_rows(Event)),
        "## Variables of a native event route\n\n" + _table(("variable", "holds"), _variable_rows()),
        _routes(),
        _NOTICES + _table(("route", "runs when"), ((f"`{PREFIX}{each.value}`", when) for each, when in ROUTES.items())),
        "## Counters\n\n`kamcmd htable.dump nsq` shows them; an absent one is 0.\n\n"
        + _table(("counter", "counts"), ((f"`{counter}`", counter.meaning) for counter in Counter)),
    ]
    return "\n".join(sections)


def _setting_rows() -> Iterable[Sequence[str]]:
    for name, field, info in rows():
        default = value_text(info.default)
        yield f"`{name}`", f"`{default}`" if default else "(none)", allowed(field), info.description or ""


def _variable_rows() -> Iterable[Sequence[str]]:
    return ((f"`$var({name})`", meaning) for name, meaning in ROUTE_VARIABLES.items())


def _attribute_rows(owner: type) -> Iterable[Sequence[str]]:
    """List the attributes that the docstring of a class describes, one on each line."""
    _, _, lines = (inspect.getdoc(owner) or "").partition("Attributes:\n")
    for described in re.sub(r"\n {8,}", " ", lines).splitlines():  # one that goes on in the next line
        name, _, meaning = described.strip().partition(": ")
        yield f"`{name}`", meaning


def _function_names() -> list[str]:
    """List what either face has, in the order of the alphabet."""
    members = {name for face in (NativeNsq, KemiNsq) for name, _ in inspect.getmembers(face, inspect.isfunction)}
    return sorted(name for name in members if name.startswith("nsq_") or name in _MORE)


def _function(name: str) -> str:
    """Say what a function does, how each face calls it, and what it returns."""
    paragraphs = [f"### {name}"]
    described = FUNCTIONS.get(name)
    if described:
        paragraphs.append(described.does)
    for face, how in ((NativeNsq, "kamailio.cfg"), (KemiNsq, "Python")):
        if face is NativeNsq and name in _PYTHON_ONLY:
            continue
        if method := getattr(face, name, None):
            paragraphs.append(f"**{how}** {_call_of(face, name)}. {_one_line(inspect.getdoc(method) or '')}")
    if described:
        codes = all(_returns_a_code(getattr(face, name)) for face in (NativeNsq, KemiNsq) if hasattr(face, name))
        paragraphs.append(f"**Returns**{'' if codes else ' (kamailio.cfg)'} {described.returns}")
    return "\n\n".join(paragraphs) + "\n"


def _returns_a_code(method: Callable[..., object]) -> bool:
    return bool(inspect.signature(method).return_annotation == "int")


def _call_of(face: type, name: str) -> str:
    if face is NativeNsq:
        texts = len(inspect.signature(getattr(face, name)).parameters) > 2  # besides the object and the message
        return f'`python_exec("{name}"{", " + chr(34) + "text" + chr(34) if texts else ""})`'
    parameters = list(inspect.signature(getattr(face, name)).parameters)[1:]
    return f"`self.{name}({', '.join(parameters)})`"


def _one_line(docstring: str) -> str:
    return " ".join(docstring.split())


def _routes() -> str:
    key, subkey = "Event-Category", "Event-Name"
    names = route_names({key: "Presence", subkey: "Update_All"}, key, subkey)
    listed = "\n".join(f"{number}. `{name}`" for number, name in enumerate(names, 1))
    return _ROUTES.format(key=key, subkey=subkey) + f"{listed}\n\nAll names start with `{ROUTE_PREFIX}`.\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
