# SPDX-License-Identifier: GPL-2.0-or-later
"""What a message on NSQ means: its JSON fields and the event routes that may handle it.

The names of routes and their order follow Kamailio's nsq module (`nsq_reader.c`, `nsq_consumer_event`), with one
repair: a missing value skips the names that need it instead of leaving a dangling dash.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from kemi_nsq.errors import PayloadError
from kemi_nsq.jsontext import JsonObject, field_text, json_object

ROUTE_PREFIX = "nsq:consumer-event"
#: As it is looked up, as nearly every name of an event is.
_NORMAL = re.compile("[a-z0-9:-]*")
#: Of few producers come many events. Bounded, because names come from the network.
_REMEMBERED = 256


class Event(NamedTuple):
    """One consumed message, decoded once.

    Attributes:
        topic: NSQ topic that it came from.
        channel: NSQ channel that it came from.
        message_id: nsqd's id, 16 hexadecimal digits.
        timestamp_ns: when nsqd took the message, nanoseconds since the epoch by nsqd's clock.
        attempts: how often nsqd has handed it out, 1 for the first time.
        payload: the JSON text as received.
        fields: the decoded JSON object.
        replays: how often it was replayed from the dead letters; 0 for one that comes as it was published. What is
            above is then what it was at first, but for `attempts`.
    """

    topic: str
    channel: str
    message_id: str
    timestamp_ns: int
    attempts: int
    payload: str
    fields: JsonObject
    replays: int = 0


def decode(body: bytes, *, max_size: int) -> tuple[str, JsonObject]:
    """Decode the body of a message.

    Args:
        body: the bytes as nsqd delivered them.
        max_size: refuse bodies above this many bytes.

    Returns:
        The JSON text and the object that it holds.

    Raises:
        PayloadError: empty, too large, not UTF-8, not JSON, or JSON that is no object.
    """
    if not body.strip():
        raise PayloadError("the body is empty; a JSON object is wanted")
    if len(body) > max_size:
        raise PayloadError(f"the body has {len(body)} bytes; NSQ_MAX_EVENT_SIZE allows {max_size}")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PayloadError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    return text, json_object(text)


def route_names(fields: JsonObject, key: str, subkey: str) -> list[str]:
    """List the event routes that may handle an event, the most specific first.

    Args:
        fields: the event's JSON object.
        key: NSQ_CONSUMER_EVENT_KEY, the field that names the route.
        subkey: NSQ_CONSUMER_EVENT_SUBKEY, the field that makes the name more specific.
    """
    return list(_route_names(field_text(fields, key), field_text(fields, subkey), key, subkey))


@functools.lru_cache(maxsize=_REMEMBERED)
def _route_names(category: str, name: str, key: str, subkey: str) -> tuple[str, ...]:
    suffixes = [
        (category, name) if category and name else None,
        (category,) if category else None,
        (key, subkey),
        (key,),
        (),
    ]
    names = [normal_name("-".join((ROUTE_PREFIX, *parts))) for parts in suffixes if parts is not None]
    return tuple(dict.fromkeys(names))


def normal_name(name: str) -> str:
    """Write a route name as Kamailio's nsq module looks it up: lower case, `_` as `-`."""
    return name if _NORMAL.fullmatch(name) else name.lower().replace("_", "-")
