# SPDX-License-Identifier: GPL-2.0-or-later
"""A dead letter is read whatever it is, and which ones are meant is told by what is given, all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.consumer.origin import Origin
from kemi_nsq.errors import PayloadError, UsageError
from kemi_nsq.nsq.protocol import Message
from kemi_nsq.tools.letters import Letter, Wanted, read, since
from tests.support.deliveries import TAKEN_NS, delivery
from tests.support.doubles import FakePublisher
from tests.support.settings import settings

NOW = 1_800_000_000.0


def letter(body: bytes = b"{}", *, number: int = 0, reason: str = "wrong", died_ns: int = TAKEN_NS) -> Letter:
    """Return the letter that a consumer writes of a message, as a tool reads it."""
    publisher = FakePublisher()
    DeadLetters(settings(dead_letter_topic="dead"), publisher).send(
        delivery(body, number=number), reason=reason, route=""
    )
    sent = publisher.sent[0].body
    return read(Message(b"%016x" % (number + 0xF00), died_ns, 1, sent), "nsqd:4150")


@given(body=st.binary(max_size=80) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_what_a_consumer_writes_is_the_message_again(body: bytes) -> None:
    origin = letter(body, number=5).origin()
    assert origin == Origin("events", "kamailio", f"{5:016x}", TAKEN_NS, body, replays=1)


@given(
    body=st.binary(max_size=60) | st.from_regex(r"\A\{\"[A-Za-z-]{1,16}\": ?[0-9\"\[\]{}a-z]{0,8}\}\Z").map(str.encode)
)
def test_anything_can_be_read_shown_and_written(body: bytes) -> None:
    found = read(Message(b"0" * 16, 0, 1, body), "nsqd:4150")
    assert found.body == body
    assert isinstance(found.text, str)
    json.dumps(found.as_json())
    with pytest.raises(PayloadError):
        found.origin()


def test_a_replay_counts_on() -> None:
    first = letter()
    assert [replace(first, replays=text).origin().replays for text in ("", "1", "41")] == [1, 2, 42]


@pytest.mark.parametrize("timestamp", ["", "-1", "1.5", "9" * 40, "x"])
def test_a_letter_that_does_not_say_when_cannot_be_replayed(timestamp: str) -> None:
    with pytest.raises(PayloadError, match="its Timestamp is no whole number"):
        replace(letter(), timestamp=timestamp).origin()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), [1, 2, 3]),
        (Wanted(reason="STATE is"), [2]),
        (Wanted(topic="events"), [1, 2, 3]),
        (Wanted(topic="event"), []),
        (Wanted(ids=[f"{1:016x}", f"{0xF03:016x}", "x"]), [1, 3]),
        (Wanted(ids=[f"{1:016x}"], reason="state"), []),
        (Wanted(since_s=(TAKEN_NS + 2) / 1e9), [2, 3]),
        (Wanted(limit=2), [1, 2]),
        (Wanted(limit=1, reason="state"), [2]),
    ],
)
def test_those_are_meant_that_match_all_that_is_given(wanted: Wanted, found: list[int]) -> None:
    second_ns = 10**9
    letters = [
        letter(
            number=number,
            reason="State is missing" if number == 2 else "no JSON",
            died_ns=TAKEN_NS + number * second_ns,
        )
        for number in (3, 1, 2)
    ]
    wanted = replace(wanted, since_s=TAKEN_NS / 1e9 + 2) if wanted.since_s else wanted
    assert [int(each.message_id, 16) for each in wanted.of(letters)] == found
    assert wanted.everything == (wanted == Wanted())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("90s", NOW - 90), ("15m", NOW - 900), ("2h", NOW - 7200), ("7d", NOW - 604800)],
)
def test_a_time_ago_is_read(text: str, seconds: float) -> None:
    assert since(text, NOW) == seconds


def test_a_date_is_read_by_the_machines_clock() -> None:
    assert since("2026-12-24T18:00", NOW) == datetime(2026, 12, 24, 18).timestamp()
    assert since("2026-12-24T18:00+00:00", NOW) == 1798135200


@pytest.mark.parametrize("text", ["x", "2", "h", "-2h", "9999999d", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is neither a time"):
        since(text, NOW)
