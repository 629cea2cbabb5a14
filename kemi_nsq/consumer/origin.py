# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a message came from first, and what it said then: by nsqd, or by the envelope of a replay.

A dead letter that is replayed comes by NSQ_REPLAY_TOPIC, in an envelope: a JSON object with `Replay-Of` (`Topic`,
`Channel`, `Message-ID`, `Timestamp` in nanoseconds, and `Replays`, which counts from 1), and the body as a dead letter
has it. It is handled as the message that it was: with its own place in the order of events, so that what came later
stays. An envelope counts on that topic alone, because whoever writes one says when an event was.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, NamedTuple

from kemi_nsq.errors import PayloadError
from kemi_nsq.event import Event, decode
from kemi_nsq.jsontext import JsonObject, JsonValue, encode
from kemi_nsq.names import topic_name
from kemi_nsq.nsq.protocol import MAX_FRAME

_MESSAGE_ID = re.compile("[0-9a-f]{16}")
_MAX_TIMESTAMP = 2**63 - 1
_MAX_REPLAYS = 10**6


class Origin(NamedTuple):
    """What a message was when its producer published it.

    Attributes:
        topic: NSQ topic.
        channel: NSQ channel.
        message_id: nsqd's id, 16 hexadecimal digits.
        timestamp_ns: when nsqd took it, nanoseconds since the epoch by nsqd's clock.
        body: what it says.
        replays: how often it was replayed; 0 for one that comes as it was published.
    """

    topic: str
    channel: str
    message_id: str
    timestamp_ns: int
    body: bytes
    replays: int = 0

    def event(self, *, attempts: int, max_size: int) -> Event:
        """Return the event that it is; `attempts` is how often nsqd has delivered this copy.

        Raises:
            PayloadError: it is none, or has more than `max_size` bytes.
        """
        payload, fields = decode(self.body, max_size=max_size)
        return Event(
            topic=self.topic,
            channel=self.channel,
            message_id=self.message_id,
            timestamp_ns=self.timestamp_ns,
            attempts=attempts,
            payload=payload,
            fields=fields,
            replays=self.replays,
        )


def sealed(origin: Origin) -> bytes:
    """Return the envelope of a message."""
    told: dict[str, JsonValue] = {
        "Topic": origin.topic,
        "Channel": origin.channel,
        "Message-ID": origin.message_id,
        "Timestamp": origin.timestamp_ns,
        "Replays": origin.replays,
    }
    return encode({"Replay-Of": told, **payload_fields(origin.body)})


def opened(envelope: bytes) -> Origin:
    """Return the message that is in an envelope.

    Raises:
        PayloadError: it is no envelope.
    """
    _, fields = decode(envelope, max_size=MAX_FRAME)
    told = fields.get("Replay-Of")
    if not isinstance(told, dict):
        raise PayloadError("it has no Replay-Of, so it is no replay: NSQ_REPLAY_TOPIC is for `kemi-nsq dead-letters`")
    return origin_of(told, payload_of(fields), replays=_number(told, "Replays", least=1, most=_MAX_REPLAYS))


def origin_of(told: JsonObject, body: bytes, *, replays: int) -> Origin:
    """Return the message that the fields of an envelope, or of a dead letter, tell of.

    Raises:
        PayloadError: one of them is missing or wrong.
    """
    message_id = told.get("Message-ID")
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        raise PayloadError("its Message-ID is none of nsqd's: 16 hexadecimal digits are wanted")
    return Origin(
        topic=_name(told, "Topic"),
        channel=_name(told, "Channel"),
        message_id=message_id,
        timestamp_ns=_number(told, "Timestamp", least=0, most=_MAX_TIMESTAMP),
        body=body,
        replays=replays,
    )


def payload_fields(body: bytes) -> dict[str, JsonValue]:
    """Return a body as JSON holds it: in `Payload`, or in `Payload-Base64` if it is not UTF-8."""
    try:
        return {"Payload": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"Payload-Base64": base64.b64encode(body).decode("ascii")}


def payload_of(fields: JsonObject) -> bytes:
    """Return the body that `payload_fields` has written.

    Raises:
        PayloadError: there is none.
    """
    match fields.get("Payload"), fields.get("Payload-Base64"):
        case str() as text, None:
            return text.encode("utf-8", "surrogatepass")
        case None, str() as coded:
            try:
                return base64.b64decode(coded, validate=True)
            except (binascii.Error, ValueError) as error:
                raise PayloadError(f"its Payload-Base64 is none: {error}") from error
    raise PayloadError("it has neither Payload nor Payload-Base64, or both")


def _name(told: JsonObject, field: str) -> str:
    value: Any = told.get(field)
    if not isinstance(value, str):
        raise PayloadError(f"its {field} is missing")
    try:
        return topic_name(value)
    except ValueError as error:
        raise PayloadError(f"its {field} is wrong: {error}") from error


def _number(told: JsonObject, field: str, *, least: int, most: int) -> int:
    value = told.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise PayloadError(f"its {field} is no whole number from {least} to {most}")
    return value
