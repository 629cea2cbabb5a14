# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot be used goes to the dead-letter topic as it came; what fails comes again, later each time."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from kemi_nsq.event import Event
from tests.acceptance.conftest import custom_chain
from tests.support.chain import CHANNEL, TOPIC, Chain, event
from tests.support.consuming import Consuming
from tests.support.kamailio import quoted
from tests.support.until import until

DEAD = "dead"
MAX_ATTEMPTS = 3
CALL = {"To": "sip:bob@example.com", "State": "early", "Call_ID": "c1"}
ROUTE = "nsq:consumer-event-presence-update"
EXPECTED_LINES = (
    "kemi-nsq: .* message [0-9a-f]{16} dropped: ",
    "kemi-nsq: nsq_pua_publish: ",
    "kemi-nsq: no event_route for nsq:consumer-event-unknown ",
)

#: Name, body, and the route and the reason that its dead letter must give.
BAD = [
    ("no JSON", b"hello", "", "the body is not JSON: "),
    ("an array", b"[1]", "", "the body is a JSON array; a JSON object is wanted"),
    ("no UTF-8", b'{"From":"\xff\xfe"}', "", "the body is not UTF-8"),
    ("too large", b'{"a":"' + b"x" * 70_000 + b'"}', "", "the body has 70008 bytes; "),
    ("no state", event("dialog", "bad", **{**CALL, "State": None}), ROUTE, "State is missing"),
    ("another package", event("weather", "bad"), ROUTE, "Event-Package is 'weather'"),
    ("a long domain", event("presence", "bad", State="busy", From_Realm="d" * 65), ROUTE, "at most 64 fit the column"),
    ("odd blanks", b'{ "Event-Category":"presence",\n"Event-Name" : "update" }\n', ROUTE, "Event-Package is missing"),
]


@dataclass(slots=True)
class Letters:
    """The chain and the dead letters that came."""

    chain: Chain
    letters: list[dict[str, str | int]] = field(default_factory=list)

    def take(self, event: Event) -> None:
        self.letters.append(json.loads(event.payload))


@pytest.fixture(scope="module")
def letters(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Letters]:
    """Run a chain, and read its dead letters."""
    folder = tmp_path_factory.mktemp(kind)
    with custom_chain(
        kind, folder, NSQ_DEAD_LETTER_TOPIC=DEAD, NSQ_MAX_ATTEMPTS=MAX_ATTEMPTS, NSQ_NODE=quoted("edge-1")
    ) as chain:
        letters = Letters(chain)
        with Consuming(chain.nsqd, letters.take, topic_channel=f"{DEAD}:reader", max_event_size="200000"):
            yield letters
        chain.drain()
    assert chain.complaints(EXPECTED_LINES) == []


@pytest.mark.parametrize(("body", "route", "reason"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_a_bad_event_is_kept_as_it_came(letters: Letters, body: bytes, route: str, reason: str) -> None:
    chain, before = letters.chain, len(letters.letters)
    counted = chain.counter("dead_letters")
    chain.publish(body)
    until(lambda: len(letters.letters) == before + 1, what="a dead letter")
    letter = letters.letters[-1]
    payload = letter.get("Payload")
    assert body == (base64.b64decode(str(letter["Payload-Base64"])) if payload is None else str(payload).encode())
    assert reason in str(letter["Reason"])
    assert (letter["Route"], letter["Attempts"], letter["Node"]) == (route, 1, "edge-1")
    assert (letter["Topic"], letter["Channel"]) == (TOPIC, CHANNEL)
    assert abs(int(letter["Timestamp"]) / 1e9 - time.time()) < 60
    chain.drain()
    assert chain.counter("dead_letters") == counted + 1


def test_an_event_that_fails_each_time_is_given_up(letters: Letters) -> None:
    """0.5 s after the first delivery, 1 s after the second, and not after the third."""
    chain, before, started = letters.chain, len(letters.letters), time.monotonic()
    gave_up, requeued = chain.counter("gave_up"), chain.counter("requeued")
    body = b'{"Event-Category": "test", "Event-Name": "never"}'
    chain.publish(body)
    until(lambda: len(letters.letters) == before + 1, timeout_s=10, what="a dead letter")
    assert time.monotonic() - started > 1.4
    letter = letters.letters[-1]
    assert (letter["Attempts"], letter["Route"]) == (MAX_ATTEMPTS, "nsq:consumer-event-test-never")
    assert letter["Reason"] == f"its route failed, or asked for it again, {MAX_ATTEMPTS} times"
    assert str(letter["Payload"]).encode() == body
    assert chain.counter("gave_up") == gave_up + 1
    assert chain.counter("requeued") == requeued + MAX_ATTEMPTS - 1


def test_a_good_event_leaves_no_dead_letter(letters: Letters) -> None:
    before = len(letters.letters)
    letters.chain.publish(event("dialog", "good", **CALL))
    letters.chain.publish(b'{"Event-Category": "unknown"}')  # for which there is no route
    letters.chain.drain()
    letters.chain.publish(b"bad")
    until(lambda: len(letters.letters) > before, what="the next dead letter")
    assert [letter["Payload"] for letter in letters.letters[before:]] == ["bad"]
