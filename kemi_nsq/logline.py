# SPDX-License-Identifier: GPL-2.0-or-later
"""How a line of ours looks in the server's log: text behind a prefix, or a JSON object (decision 32)."""

from __future__ import annotations

import os

from kemi_nsq.filename import readable
from kemi_nsq.host import NO_FIELDS, Level, LogPolicy
from kemi_nsq.jsontext import JsonObject, JsonValue, encode

#: What a line begins with as text; without the colon it is the first key of one in JSON.
PREFIX = "kemi-nsq: "
_NAME = PREFIX.rstrip(": ")
_LONGEST = 3000


def line(policy: LogPolicy, level: Level, text: str, fields: JsonObject = NO_FIELDS) -> str:
    """Return one line, without its end.

    Args:
        policy: says in which form.
        level: of the line, a field in JSON.
        text: what it says. Control characters are shown, not sent.
        fields: what it is about, for JSON; before what the policy knows.
    """
    if not policy.as_json:
        return PREFIX + _shown(text)
    about = {name: _field(value) for name, value in {**policy.about(), **fields}.items()}
    return encode({_NAME: _shown(text), "level": level.name.lower(), **about, "pid": os.getpid()}).decode()


def _field(value: JsonValue) -> JsonValue:
    return _shown(value) if isinstance(value, str) else value


def _shown(text: str) -> str:
    shown = readable(text[:_LONGEST])
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)
