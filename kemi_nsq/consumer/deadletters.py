# SPDX-License-Identifier: GPL-2.0-or-later
"""The topic for messages that cannot be used: what came, untouched, and why it went no further."""

from __future__ import annotations

from kemi_nsq.consumer.message import Delivery
from kemi_nsq.consumer.origin import Origin, payload_fields
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

    def send(self, delivery: Delivery, *, reason: str, route: str, origin: Origin | None = None) -> bool:
        """Publish a dead letter and wait until nsqd has taken it; return whether there is a topic for it.

        It is a JSON object with `Reason`, `Route`, `Attempts`, `Node`, `Topic`, `Channel`, `Message-ID`, `Timestamp`
        (nanoseconds), and the body as text in `Payload`, or in `Payload-Base64` if it is not UTF-8. That of a replay
        has besides `Replays`, how often it was replayed, and tells of the message that it was at first, its `origin`.

        Raises:
            TransientError: no nsqd took it.
        """
        # A dead letter that is itself refused has nowhere to go.
        if not self._settings.dead_letter_topic or delivery.subscription.topic == self._settings.dead_letter_topic:
            return False
        first = origin or delivery.origin
        letter: dict[str, JsonValue] = {
            "Reason": reason,
            "Route": route,
            "Attempts": delivery.message.attempts,
            "Node": self._settings.node,
            "Topic": first.topic,
            "Channel": first.channel,
            "Message-ID": first.message_id,
            "Timestamp": first.timestamp_ns,
            **({"Replays": first.replays} if first.replays else {}),
            **payload_fields(first.body),
        }
        self._publisher.publish(Outgoing(topic=self._settings.dead_letter_topic, body=encode(letter)))
        return True
