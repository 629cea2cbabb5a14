# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request carries, whose a reply is, and that each query is taken exactly once."""

from __future__ import annotations

import contextlib
import json
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kemi_nsq.errors import PayloadError
from kemi_nsq.host import Suspended
from kemi_nsq.jsontext import encode
from kemi_nsq.names import encode_key, topic_name
from kemi_nsq.queries.protocol import Pending, Sender, Waiting, consumer_subscription, reply_msg_id, request

SENDER = Sender(node="n1", app_name="app", app_version="7")
INSTANCES = ["abcdefgh", "abcdefg2"]
ADDED = {"Msg-ID": "new", "Node": "n1", "App-Name": "app", "App-Version": "7"}


def waiting(msg_id: str, deadline: float = 1.0, mailbox: str = "box") -> Waiting:
    return Waiting(msg_id=msg_id, deadline=deadline, mailbox=mailbox)


# Requests


def test_a_request_gets_the_fields_of_the_protocol() -> None:
    assert request('{"Call-ID": "c"}', sender=SENDER, new_id="new") == ("new", {"Call-ID": "c", **ADDED})


@pytest.mark.parametrize("name", ADDED)
def test_what_a_request_says_itself_is_kept(name: str) -> None:
    msg_id, fields = request({name: "mine"}, sender=SENDER, new_id="new")
    assert fields == {**ADDED, name: "mine"}
    assert msg_id == fields["Msg-ID"]


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("nothing", [None, ""])
def test_a_field_that_says_nothing_counts_as_absent(name: str, nothing: str | None) -> None:
    assert request({name: nothing}, sender=SENDER, new_id="new") == ("new", ADDED)


def test_the_payload_of_the_caller_is_not_changed() -> None:
    payload = {"a": 1}
    request(payload, sender=SENDER, new_id="new")
    assert payload == {"a": 1}


def test_a_number_is_a_msg_id_too() -> None:
    msg_id, fields = request('{"Msg-ID": 17}', sender=SENDER, new_id="new")
    assert (msg_id, fields["Msg-ID"]) == ("17", 17)
    assert reply_msg_id(b'{"Msg-ID": 17}') == reply_msg_id(b'{"Msg-ID": "17"}') == msg_id


@pytest.mark.parametrize("msg_id", ["x" * 256, "a\nb", "a\0b"])
def test_a_msg_id_that_cannot_be_one_is_refused(msg_id: str) -> None:
    with pytest.raises(PayloadError, match="Msg-ID"):
        request({"Msg-ID": msg_id}, sender=SENDER, new_id="new")


@pytest.mark.parametrize("payload", ["", "x", "[]", "1", "null", "{", "{'a': 1}"])
def test_a_request_must_be_an_object(payload: str) -> None:
    with pytest.raises(PayloadError):
        request(payload, sender=SENDER, new_id="new")


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: "a"}, "\ud800", 1 << 70])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(PayloadError, match="cannot be written as JSON"):
        encode({"a": value})  # type: ignore[dict-item]


# Replies


def test_each_consumer_process_of_each_instance_has_a_reply_topic_that_vanishes_with_it() -> None:
    topics = {consumer_subscription(slot, "n" * 32, instance).topic for slot in range(32) for instance in INSTANCES}
    assert len(topics) == 32 * len(INSTANCES)
    for topic in topics:
        assert re.fullmatch(r"[.a-zA-Z0-9_-]{1,64}#ephemeral", topic)
        assert len(topic) <= 64  # NSQ TCP protocol spec, "Data Format": #ephemeral counts


@given(st.integers(0, 31), st.text(string.ascii_letters + "._-", min_size=1, max_size=32))
def test_a_reply_topic_names_its_node_for_people(slot: int, node: str) -> None:
    reply_topic, channel = consumer_subscription(slot, node, INSTANCES[0])
    assert (topic_name(reply_topic), channel) == (reply_topic, "replies#ephemeral")
    assert reply_topic == f"kamailio-{slot}.{node[: 27 - len(str(slot))]}.{INSTANCES[0]}.replies#ephemeral"


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"null", b"{}", b'{"Msg-ID": null}', b'{"Msg-ID": ""}', b'{"msg-id": "a"}', b"\xff{}"]
)
def test_what_names_no_query_is_no_reply(body: bytes) -> None:
    with pytest.raises(PayloadError):
        reply_msg_id(body)


@given(st.binary())
def test_any_bytes_name_a_query_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(PayloadError):
        assert reply_msg_id(body)


# Who waits


class PendingMachine(RuleBasedStateMachine):
    """Any order of registrations, replies, passing time: each query is taken once, by its reply or by its deadline."""

    LIMIT = 5
    IDS = st.sampled_from("abcdefgh")

    def __init__(self) -> None:
        super().__init__()
        self.pending = Pending(self.LIMIT)
        self.now = 0.0
        self.model: dict[str, Waiting] = {}

    @rule(msg_id=IDS, lifetime_s=st.integers(0, 5), box=st.sampled_from(["", "box 1", "box 2"]))
    def add(self, msg_id: str, lifetime_s: int, box: str) -> None:
        suspended = None if box else Suspended(index=1, label=2, route="R")
        entry = Waiting(msg_id=msg_id, deadline=self.now + lifetime_s, mailbox=box, suspended=suspended)
        reason = self.pending.add(entry)
        known = self.model.get(msg_id)
        if known is not None and (not box or known.mailbox != box):
            assert reason == "bad payload"
        elif known is None and len(self.model) >= self.LIMIT:
            assert reason == "no consumer"
        else:
            assert reason is None
            self.model[msg_id] = entry

    @rule(msg_id=IDS)
    def reply(self, msg_id: str) -> None:
        assert self.pending.take(msg_id) == self.model.pop(msg_id, None)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        expired = list(self.pending.expired(self.now))
        due = [entry for entry in self.model.values() if entry.deadline <= self.now]
        assert sorted(map(repr, expired)) == sorted(map(repr, due))
        assert [entry.deadline for entry in expired] == sorted(entry.deadline for entry in due)
        for entry in expired:
            del self.model[entry.msg_id]

    @invariant()
    def the_next_deadline_is_that_of_a_query_that_waits(self) -> None:
        assert self.pending.next_deadline() == min((entry.deadline for entry in self.model.values()), default=None)


TestPending = PendingMachine.TestCase


def test_a_msg_id_that_waits_for_another_is_refused() -> None:
    pending = Pending()
    assert pending.add(waiting("a", mailbox="one")) is None
    assert pending.add(waiting("a", mailbox="two")) == "bad payload"
    first = pending.take("a")
    assert first is not None
    assert first.mailbox == "one"


def test_who_asks_again_with_the_same_msg_id_has_given_up_the_first() -> None:
    pending = Pending()
    assert pending.add(waiting("a", deadline=1.0)) is None
    assert pending.add(waiting("a", deadline=3.0)) is None
    assert list(pending.expired(2.0)) == []
    assert [entry.deadline for entry in pending.expired(3.0)] == [3.0]


def test_a_suspended_transaction_gives_up_nothing() -> None:
    suspended = Suspended(index=1, label=2, route="R")
    pending = Pending()
    entry = Waiting(msg_id="a", deadline=1.0, suspended=suspended)
    assert pending.add(entry) is None
    assert pending.add(Waiting(msg_id="a", deadline=2.0, suspended=suspended)) == "bad payload"
    assert list(pending.expired(1.0)) == [entry]


def test_answered_queries_leave_nothing_behind() -> None:
    pending = Pending()
    for number in range(20_000):
        assert pending.add(waiting(str(number), deadline=300.0)) is None
        assert pending.take(str(number)) is not None
    assert len(pending._deadlines) < 2_000
    assert pending.next_deadline() is None


# Keys


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("#", "#"),
        ("*", "*"),
        ("##", "%23%23"),
        ("*a", "%2Aa"),
        ("a.b", "a%2Eb"),
        ("a b", "a+b"),
        ("%/@:;", "%25%2F%40%3A%3B"),
        ("-~_", "-~_"),
        ("é", "%C3%A9"),
        ("€", "%E2%82%AC"),
        ("𝄞", "%F0%9D%84%9E"),
        ("\n\0", "%0A%00"),
        ('"', "%22"),
        ("", ""),
        ("x" * 1000, "x" * 1000),
    ],
)
def test_a_key_is_encoded_as_kazoo_does_and_beyond_ascii_as_utf_8(text: str, encoded: str) -> None:
    assert encode_key(text) == encoded


@given(st.text(st.characters()))
def test_an_encoded_key_fits_into_json_and_can_be_read_back(text: str) -> None:
    encoded = encode_key(text)
    assert set(encoded) <= set(string.ascii_letters + string.digits + "%+-_~#*")
    assert json.loads(f'"{encoded}"') == encoded
    unquoted = re.sub(b"%(..)", lambda found: bytes.fromhex(found[1].decode()), encoded.replace("+", " ").encode())
    assert unquoted.decode("utf-8", "surrogatepass") == text
