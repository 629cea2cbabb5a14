# SPDX-License-Identifier: GPL-2.0-or-later
"""Dead letters: what came is in them, byte for byte, and they never go round in a circle."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.errors import ConnectionLost, NsqdRefused
from kemi_nsq.names import Subscription
from tests.support.deliveries import delivery
from tests.support.doubles import FakePublisher
from tests.support.settings import settings


@given(body=st.binary(max_size=80) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_the_body_comes_back_byte_for_byte(body: bytes) -> None:
    publisher = FakePublisher()
    assert DeadLetters(settings(dead_letter_topic="dead"), publisher).send(delivery(body), reason="r", route="x")
    (sent,) = publisher.sent
    letter = json.loads(sent.body)
    assert ("Payload" in letter) != ("Payload-Base64" in letter)
    given_back = letter["Payload"].encode() if "Payload" in letter else base64.b64decode(letter["Payload-Base64"])
    assert (sent.topic, given_back) == ("dead", body)


def test_a_letter_says_where_it_came_from() -> None:
    publisher = FakePublisher()
    letters = DeadLetters(settings(dead_letter_topic="dead", node="n1"), publisher)
    letters.send(
        delivery(b'{"a": 1}', number=0x0123456789ABCDEF, attempts=65535, timestamp_ns=17),
        reason='the "reason"\n',
        route="nsq:consumer-event",
    )
    assert json.loads(publisher.sent[0].body) == {
        "Reason": 'the "reason"\n',
        "Route": "nsq:consumer-event",
        "Attempts": 65535,
        "Node": "n1",
        "Topic": "events",
        "Channel": "kamailio",
        "Message-ID": "0123456789abcdef",
        "Timestamp": 17,
        "Payload": '{"a": 1}',
    }


def test_without_a_topic_there_is_none() -> None:
    publisher = FakePublisher()
    assert not DeadLetters(settings(), publisher).send(delivery(b"x"), reason="r", route="")
    assert publisher.sent == []


def test_a_dead_letter_has_no_dead_letter() -> None:
    publisher = FakePublisher()
    letters = DeadLetters(settings(dead_letter_topic="dead"), publisher)
    assert not letters.send(delivery(b"x", subscription=Subscription("dead", "kamailio")), reason="r", route="")
    assert publisher.sent == []


@pytest.mark.parametrize("error", [ConnectionLost("gone"), NsqdRefused("E_BAD_MESSAGE", "too big", fatal=True)])
def test_what_nsqd_says_is_for_the_caller(error: Exception) -> None:
    letters = DeadLetters(settings(dead_letter_topic="dead"), FakePublisher(error))
    with pytest.raises(type(error)):
        letters.send(delivery(b"x"), reason="r", route="")
