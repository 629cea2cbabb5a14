# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference page, made from the code: settings, functions, variables, event routes and counters.

A test compares `docs/reference.md` with what this module writes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

from kemi_nsq import settings as table
from kemi_nsq.consumer.routes import NATIVE_VARIABLES
from kemi_nsq.counters import Counter
from kemi_nsq.event import ROUTE_PREFIX, Event, route_names
from kemi_nsq.plugin.kemi import KemiNsq
from kemi_nsq.plugin.native import NativeNsq

_HEAD = """\
# Reference

Made from the code by `make docs`; do not edit.

"""
_SETTINGS = """\
## Settings

Each is set by `#!define NAME value` in kamailio.cfg before `include_file "nsq.cfg"`, by `kamailio -A NAME=value`, or
in the environment; the first two win. A wrong value, or an unknown name that starts with `NSQ_`, stops Kamailio at
start with one line for each. `kemi-nsq settings` checks and shows what the environment sets.

`nsq.cfg` knows two more. `NSQ_SCRIPT` (default `"/etc/kamailio/nsq.py"`) is the Python file that Kamailio loads. For
routes in Python let it be yours, and write `#!define NSQ_KEMI` before the include: that sets `cfgengine "python"`.

"""
_HANDLERS = """\
## Event handlers of a Python script

A method with `@event_route("nsq:consumer-event-...")` is called with an `Event`. A negative result, or an exception,
has nsqd deliver the message again.

"""
_ROUTES = """\
## Event routes

For an event whose `{key}` is `Presence` and whose `{subkey}` is `Update_All` these are tried, in this order; the
first that exists handles it. A missing field skips the names that need it.

"""


def markdown() -> str:
    """Return the whole page."""
    sections = [
        _HEAD,
        _SETTINGS + _table(("setting", "default", "allowed", "meaning"), _setting_rows()),
        '## Functions of a native kamailio.cfg\n\nCalled as `python_exec("name", "text")`.\n\n' + _functions(NativeNsq),
        '## Methods of a Python script (`cfgengine "python"`)\n\nInherited from `KemiNsq`.\n\n' + _functions(KemiNsq),
        _HANDLERS + _table(("field of `Event`", "holds"), _attribute_rows(Event)),
        "## Variables of a native event route\n\n" + _table(("variable", "holds"), _variable_rows()),
        _routes(),
        "## Counters\n\n`kamcmd htable.dump nsq` shows them; an absent one is 0.\n\n"
        + _table(("counter", "counts"), ((f"`{counter}`", counter.meaning) for counter in Counter)),
    ]
    return "\n".join(sections)


def value_text(value: object) -> str:
    """Write the value of a setting as one would type it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Mapping):
        return ",".join(f"{word}={':'.join(filter(None, astuple(meaning)))}" for word, meaning in value.items())
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def _setting_rows() -> Iterable[Sequence[str]]:
    for name, field, info in table.rows():
        default = value_text(info.default)
        yield f"`{name}`", f"`{default}`" if default else "(none)", table.allowed(field), info.description or ""


def _variable_rows() -> Iterable[Sequence[str]]:
    return ((f"`$var({name})`", meaning) for name, meaning in NATIVE_VARIABLES.items())


def _attribute_rows(owner: type) -> Iterable[Sequence[str]]:
    """List the attributes that the docstring of a class describes, one on each line."""
    _, _, lines = (inspect.getdoc(owner) or "").partition("Attributes:\n")
    for line in lines.splitlines():
        name, _, meaning = line.strip().partition(": ")
        yield f"`{name}`", meaning


def _functions(owner: type) -> str:
    """List the public `nsq_` methods of a class with their docstrings."""
    parts = []
    for name, method in inspect.getmembers(owner, inspect.isfunction):
        if name.startswith("nsq_"):
            parts.append(f"### {name}\n\n{_as_markdown(inspect.getdoc(method) or '')}\n")
    return "\n".join(parts)


def _as_markdown(docstring: str) -> str:
    """Turn the headings of a docstring into paragraphs."""
    lines = [line.strip() for line in docstring.splitlines()]
    return "\n".join(f"**{line[:-1]}**" if line in ("Returns:", "Args:", "Raises:") else line for line in lines)


def _routes() -> str:
    key, subkey = "Event-Category", "Event-Name"
    names = route_names({key: "Presence", subkey: "Update_All"}, key, subkey)
    listed = "\n".join(f"{number}. `{name}`" for number, name in enumerate(names, 1))
    return _ROUTES.format(key=key, subkey=subkey) + f"{listed}\n\nAll names start with `{ROUTE_PREFIX}`.\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
