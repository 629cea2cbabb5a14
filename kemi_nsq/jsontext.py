# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON and text: an object of a text, a field or a path of it as text, an object as text again.

A value as text is the same everywhere: a string as it is, anything else as JSON writes it. What is no JSON is told in
the same words everywhere, too: `not_json`.

The path syntax is that of kazoo's `{kz.json,...}` and nsq's `{nsq.json,...}`: `Channels[0].switch_url`. Components are
separated by `.`; `%` in a component stands for a dot of the key itself; `[n]` picks from an array, from 0. A dot at the
end means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import orjson

from kemi_nsq.errors import PayloadError

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = Mapping[str, JsonValue]

_COMPONENT = re.compile(r"([^\[\]]*)((?:\[[0-9]{1,9}\])*)")
#: JSON's names for what is no object; everything else is a number.
_TYPES = {list: "array", str: "string", bool: "boolean", type(None): "null"}


def json_object(text: str) -> JsonObject:
    """Decode JSON text that must be an object (RFC 8259 section 4).

    Raises:
        PayloadError: the text is no JSON, or JSON of another type.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        single = text[error.pos : error.pos + 1] == "'"
        advice = "; JSON strings stand in double quotes, this one uses single quotes" if single else ""
        raise not_json("body", error, advice) from error
    if not isinstance(value, dict):
        raise PayloadError(f"the body is a JSON {_TYPES.get(type(value), 'number')}; a JSON object is wanted")
    return value


def field_text(fields: JsonObject, name: str) -> str:
    """Return a field as text; missing, null, and what is nested too deeply to be written are ''."""
    try:
        return _as_text(fields.get(name)) or ""
    except orjson.JSONEncodeError:
        return ""


def lookup(path: str, payload: str) -> str | None:
    """Return what JSON text has at a path, as text, or None where it has nothing or null.

    Raises:
        PayloadError: the payload is no JSON, or the path is none.
    """
    try:
        value: JsonValue = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise not_json("payload", error) from error
    for component in path.removesuffix(".").split("."):
        value = _step(value, component, path)
    try:
        return _as_text(value)
    except orjson.JSONEncodeError as error:
        raise PayloadError(f"what is at {path!r} cannot be written: {error}") from error


def encode(fields: JsonObject) -> bytes:
    """Write a JSON object.

    Raises:
        PayloadError: it holds something that JSON cannot say.
    """
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError as error:
        raise PayloadError(f"the payload cannot be written as JSON: {error}") from error


def not_json(what: str, error: orjson.JSONDecodeError, advice: str = "") -> PayloadError:
    """Return the error that says where a text stops being JSON, and what to do about it."""
    return PayloadError(f"the {what} is not JSON: {error.msg} at line {error.lineno} column {error.colno}{advice}")


def _as_text(value: JsonValue) -> str | None:
    """Write a value, null as None; orjson reads 1024 levels and writes 254, deeper ones are its JSONEncodeError."""
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


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
