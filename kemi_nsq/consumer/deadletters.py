# SPDX-License-Identifier: GPL-2.0-or-later
"""The topic for messages that cannot be used: what came, untouched, and why it went no further."""

from __future__ import annotations

import base64

from kemi_nsq.consumer.message import Delivery
from kemi_nsq.jsontext import JsonValue, encode
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.settings import Settings


class DeadLetters:
    """Publishes dead letters to NSQ_DEAD_LETTER_TOPIC, or none if that is not set.

    Args:
        settings: the topic and the node.
        publisher: publishes them.
    """

    def __init__(self, settings: Settings, publisher: Publisher) -> None:
        self._settings = settings
        self._publisher = publisher

    def send(self, delivery: Delivery, *, reason: str, route: str) -> bool:
        """Publish a dead letter and wait until nsqd has taken it; return whether there is a topic for it.

        It is a JSON object with `Reason`, `Route`, `Attempts`, `Node`, `Topic`, `Channel`, `Message-ID`, `Timestamp`
        (nanoseconds), and the body as text in `Payload`, or in `Payload-Base64` if it is not UTF-8.

        Raises:
            TransientError: no nsqd took it.
        """
        # A dead letter that is itself refused has nowhere to go.
        if not self._settings.dead_letter_topic or delivery.subscription.topic == self._settings.dead_letter_topic:
            return False
        message = delivery.message
        letter: dict[str, JsonValue] = {
            "Reason": reason,
            "Route": route,
            "Attempts": message.attempts,
            "Node": self._settings.node,
            "Topic": delivery.subscription.topic,
            "Channel": delivery.subscription.channel,
            "Message-ID": message.message_id.decode("ascii", "replace"),
            "Timestamp": message.timestamp_ns,
            **_payload(message.body),
        }
        self._publisher.publish(Outgoing(topic=self._settings.dead_letter_topic, body=encode(letter)))
        return True


def _payload(body: bytes) -> dict[str, JsonValue]:
    try:
        return {"Payload": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"Payload-Base64": base64.b64encode(body).decode("ascii")}
