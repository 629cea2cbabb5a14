# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages as a consumer gets them from nsqd, and events as its routes get them."""

from __future__ import annotations

from kemi_nsq.consumer.message import Delivery, Handled
from kemi_nsq.event import Event
from kemi_nsq.jsontext import json_object
from kemi_nsq.names import Subscription
from kemi_nsq.nsq.protocol import Message

EVENTS = Subscription("events", "kamailio")
#: When nsqd took a message of which a test says nothing else.
TAKEN_NS = 1_700_000_000_000_000_000


def delivery(
    body: bytes = b"{}",
    *,
    number: int = 0,
    attempts: int = 1,
    timestamp_ns: int = TAKEN_NS,
    subscription: Subscription = EVENTS,
) -> Delivery:
    """Return a message whose id is this number in 16 hexadecimal digits, as nsqd writes it."""
    message = Message(message_id=b"%016x" % number, timestamp_ns=timestamp_ns, attempts=attempts, body=body)
    return Delivery(connection_id=1, subscription=subscription, message=message)


def again(delivered: Delivery) -> Delivery:
    """Return the next delivery of a message."""
    return delivered._replace(message=delivered.message._replace(attempts=delivered.message.attempts + 1))


def event(payload: str = "{}", *, timestamp_ns: int = TAKEN_NS, attempts: int = 1) -> Event:
    """Return the event of a payload."""
    return Event(
        topic=EVENTS.topic,
        channel=EVENTS.channel,
        message_id="0123456789abcdef",
        timestamp_ns=timestamp_ns,
        attempts=attempts,
        payload=payload,
        fields=json_object(payload),
    )


def handled(arrived: Event) -> Handled:
    """Return the message of an event whose route has not said anything about it yet."""
    message = delivery(
        arrived.payload.encode(),
        number=int(arrived.message_id, 16),
        attempts=arrived.attempts,
        timestamp_ns=arrived.timestamp_ns,
    )
    return Handled(delivery=message, event=arrived)
