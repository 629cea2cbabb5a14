# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON as text: an object read or written, a field of it, what is at a path of it.

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


def json_object(text: str) -> JsonObject:
    """Decode JSON text that must be an object (RFC 8259 section 4).

    Raises:
        PayloadError: the text is no JSON, or JSON of another type.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise PayloadError(_not_json(text, error)) from error
    if not isinstance(value, dict):
        raise PayloadError(f"the body is a JSON {_json_type(value)}; a JSON object is wanted")
    return value


def field_text(fields: JsonObject, name: str) -> str:
    """Return a field as text: a string as it is, missing and null as '', anything else as JSON writes it.

    What is nested too deeply to be written is '' too: orjson reads 1024 levels and writes 254.
    """
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return ""


def encode(fields: JsonObject) -> bytes:
    """Write a JSON object.

    Raises:
        PayloadError: it holds something that JSON cannot say.
    """
    try:
        return orjson.dumps(fields)
    except TypeError as error:
        raise PayloadError(f"the payload cannot be written as JSON: {error}") from error


def _not_json(text: str, error: orjson.JSONDecodeError) -> str:
    where = f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    if text[error.pos : error.pos + 1] == "'":
        return f"{where}; JSON strings stand in double quotes, this one uses single quotes"
    return where


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


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
