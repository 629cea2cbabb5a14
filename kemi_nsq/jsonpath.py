# SPDX-License-Identifier: GPL-2.0-or-later
"""The path syntax of kazoo's `{kz.json,...}` and nsq's `{nsq.json,...}`: `Channels[0].switch_url`.

Components are separated by `.`; `%` in a component stands for a dot of the key itself; `[n]` picks from an array,
from 0. A dot at the end means nothing.
"""

from __future__ import annotations

import re

import orjson

from kemi_nsq.errors import PayloadError
from kemi_nsq.event import JsonValue

_COMPONENT = re.compile(r"([^\[\]]*)((?:\[[0-9]{1,9}\])*)")


def lookup(path: str, payload: str) -> str | None:
    """Return what JSON text has at a path, as text, or None where it has nothing or null.

    A string comes as it is, everything else as JSON writes it.

    Raises:
        PayloadError: the payload is no JSON, or the path is none.
    """
    try:
        value: JsonValue = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise PayloadError(
            f"the payload is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error
    for component in path.removesuffix(".").split("."):
        value = _step(value, component, path)
    if value is None or isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:  # it reads 1024 levels and writes 254
        raise PayloadError(f"what is at {path!r} cannot be written: {error}") from error


def _step(value: JsonValue, component: str, path: str) -> JsonValue:
    match = _COMPONENT.fullmatch(component)
    if match is None or not component:
        raise PayloadError(f"{path!r} is no path; names separated by dots, an array's element as name[0], are wanted")
    name, indexes = match[1].replace("%", "."), re.findall("[0-9]+", match[2])
    if name:
        value = value.get(name) if isinstance(value, dict) else None
    for index in indexes:
        value = value[int(index)] if isinstance(value, list) and int(index) < len(value) else None
    return value
