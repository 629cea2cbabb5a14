# SPDX-License-Identifier: GPL-2.0-or-later
"""One conversation with nsqd: exact bytes out, every frame in, in pieces of any size."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.errors import ProtocolError
from kemi_nsq.names import Subscription
from kemi_nsq.nsq.protocol import (
    MAX_FRAME,
    Accepted,
    Conversation,
    Heartbeat,
    Identified,
    Message,
    NsqEvent,
    Refused,
    Subscribed,
    identify,
)
from tests.support.frames import ERROR, MESSAGE, RESPONSE, error, frame, heartbeat, identified, message, ok

ID = b"0123456789abcdef"
NSQD = Identified(max_rdy=2500, msg_timeout_s=60.0, version="1.3.0")


def connection(*, subscribed: bool = True) -> Conversation:
    """Return a connection whose handshake is over, with nothing left to send."""
    made = Conversation(identify={}, subscription=Subscription("t", "c"))
    if subscribed:
        made.receive_data(identified() + ok())
        assert events(made) == [NSQD, Subscribed()]
    made.data_to_send()
    return made


def events(receiver: Conversation) -> list[NsqEvent]:
    return list(iter(receiver.next_event, None))


def in_flight(receiver: Conversation) -> bytes:
    receiver.receive_data(message(b"{}", message_id=ID))
    assert isinstance(receiver.next_event(), Message)
    return ID


# What is sent


def test_the_handshake_starts_with_magic_and_identify() -> None:
    made = Conversation(identify={"client_id": "ü", "heartbeat_interval": -1})
    magic, command, body = made.data_to_send().partition(b"IDENTIFY\n")
    assert (magic, command) == (b"  V2", b"IDENTIFY\n")
    assert struct.unpack(">i", body[:4]) == (len(body) - 4,)
    assert json.loads(body[4:]) == {"client_id": "ü", "heartbeat_interval": -1, "feature_negotiation": True}
    assert made.data_to_send() == b"", "bytes are handed out once"


def test_a_consumer_a_publisher_and_a_reader_each_say_who_they_are() -> None:
    consumer = identify(
        client_id="c", hostname="h", user_agent="u/1", heartbeat_s=10.0, unbuffered=True, msg_timeout_s=10
    )
    assert list(consumer.items()) == [
        ("client_id", "c"),
        ("hostname", "h"),
        ("user_agent", "u/1"),
        ("heartbeat_interval", 10_000),
        ("output_buffer_size", -1),
        ("msg_timeout", 10_000),
    ]
    publisher = identify(client_id="c", hostname="h", heartbeat_s=0)
    assert publisher == {"client_id": "c", "hostname": "h", "heartbeat_interval": -1}
    assert identify(client_id="c", unbuffered=True) == {"client_id": "c", "output_buffer_size": -1}


def test_sub_follows_the_answer_to_identify_and_not_before() -> None:
    made = connection(subscribed=False)
    assert made.data_to_send() == b""
    made.receive_data(identified())
    assert events(made) == [NSQD]
    assert made.data_to_send() == b"SUB t c\n"


def test_a_connection_without_subscription_does_not_subscribe() -> None:
    made = Conversation(identify={})
    made.data_to_send()
    made.receive_data(identified() + ok())
    assert events(made) == [NSQD, Accepted()]
    assert made.data_to_send() == b""


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        (lambda made: made.ready(0), b"RDY 0\n"),
        (lambda made: made.ready(2500), b"RDY 2500\n"),
        (lambda made: made.finish(in_flight(made)), b"FIN 0123456789abcdef\n"),
        (lambda made: made.requeue(in_flight(made), 0), b"REQ 0123456789abcdef 0\n"),
        (lambda made: made.requeue(in_flight(made), 60000), b"REQ 0123456789abcdef 60000\n"),
        (lambda made: made.touch(in_flight(made)), b"TOUCH 0123456789abcdef\n"),
        (lambda made: made.publish("t.x", b"\0\n{}"), b"PUB t.x\n\0\0\0\x04\0\n{}"),
        (lambda made: made.publish("t", b""), b"PUB t\n\0\0\0\0"),
        (lambda made: made.publish_deferred("t", b"{}", 1500), b"DPUB t 1500\n\0\0\0\x02{}"),
    ],
)
def test_command(command: Callable[[Conversation], None], sent: bytes) -> None:
    made = connection()
    command(made)
    assert made.data_to_send() == sent


def test_commands_leave_in_their_order() -> None:
    made = connection()
    made.receive_data(b"".join(message(b"", message_id=b"%016d" % number) for number in range(3)))
    for received in events(made):
        assert isinstance(received, Message)
        made.finish(received.message_id)
    made.ready(5)
    assert made.data_to_send() == b"FIN 0000000000000000\nFIN 0000000000000001\nFIN 0000000000000002\nRDY 5\n"


@pytest.mark.parametrize(
    "answer", [lambda made: made.finish(ID), lambda made: made.requeue(ID, 5), lambda made: made.touch(ID)]
)
def test_a_message_that_is_not_in_flight_is_left_alone(answer: Callable[[Conversation], None]) -> None:
    made = connection()
    answer(made)
    assert made.data_to_send() == b""
    made.finish(in_flight(made))
    made.data_to_send()
    answer(made)
    assert made.data_to_send() == b"", "nsqd would answer E_FIN_FAILED"


def test_in_flight_until_finished_or_requeued() -> None:
    made = connection()
    made.receive_data(b"".join(message(b"", message_id=letter * 16) for letter in (b"a", b"b", b"c")))
    events(made)
    assert made.in_flight == {b"a" * 16, b"b" * 16, b"c" * 16}
    made.finish(b"a" * 16)
    made.requeue(b"b" * 16, 0)
    made.touch(b"c" * 16)
    assert made.in_flight == {b"c" * 16}


# What is received

FRAMES: list[tuple[bytes, NsqEvent]] = [
    (ok(), Accepted()),
    (frame(RESPONSE, b""), Accepted()),
    (frame(RESPONSE, b"CLOSE_WAIT"), Accepted()),
    (heartbeat(), Heartbeat()),
    (message(b"{}"), Message(message_id=ID, timestamp_ns=7, attempts=1, body=b"{}")),
    (message(b""), Message(message_id=ID, timestamp_ns=7, attempts=1, body=b"")),
    (message(b"\0\xff\n" * 9), Message(message_id=ID, timestamp_ns=7, attempts=1, body=b"\0\xff\n" * 9)),
    (
        message(b"x", timestamp_ns=1_700_000_000_123_456_789, attempts=65535),
        Message(message_id=ID, timestamp_ns=1_700_000_000_123_456_789, attempts=65535, body=b"x"),
    ),
    (message(b"x", attempts=32768), Message(message_id=ID, timestamp_ns=7, attempts=32768, body=b"x")),
    (message(b"_heartbeat_"), Message(message_id=ID, timestamp_ns=7, attempts=1, body=b"_heartbeat_")),
    (error("E_BAD_TOPIC what"), Refused(code="E_BAD_TOPIC", text="what", fatal=True)),
    (error("E_INVALID SUB twice"), Refused(code="E_INVALID", text="SUB twice", fatal=True)),
    (error("E_FIN_FAILED FIN 0 failed"), Refused(code="E_FIN_FAILED", text="FIN 0 failed", fatal=False)),
    (error("E_REQ_FAILED x"), Refused(code="E_REQ_FAILED", text="x", fatal=False)),
    (error("E_TOUCH_FAILED x"), Refused(code="E_TOUCH_FAILED", text="x", fatal=False)),
    (error("E_UNAUTHORIZED"), Refused(code="E_UNAUTHORIZED", text="", fatal=True)),
    (error("E_OF_A_LATER_NSQD x"), Refused(code="E_OF_A_LATER_NSQD", text="x", fatal=True)),
    (error(""), Refused(code="", text="", fatal=True)),
    (frame(ERROR, b"\xff\xfe z"), Refused(code="\ufffd\ufffd", text="z", fatal=True)),
]  # fmt: skip


@pytest.mark.parametrize(("data", "event"), FRAMES)
def test_frame_whole(data: bytes, event: NsqEvent) -> None:
    made = connection()
    made.receive_data(data)
    assert events(made) == [event]


@pytest.mark.parametrize(("data", "event"), FRAMES)
def test_frame_one_byte_at_a_time(data: bytes, event: NsqEvent) -> None:
    made = connection()
    for position in range(len(data) - 1):
        made.receive_data(data[position : position + 1])
        assert made.next_event() is None
    made.receive_data(data[-1:])
    assert events(made) == [event]


@pytest.mark.parametrize(("data", "event"), FRAMES)
@pytest.mark.parametrize("cut", [1, 3, 4, 7, 8, 9])
def test_frame_with_the_start_of_the_next(data: bytes, event: NsqEvent, cut: int) -> None:
    made = connection()
    made.receive_data(data + message(b"next")[:cut])
    assert events(made) == [event]
    made.receive_data(message(b"next")[cut:])
    assert [found.body for found in events(made) if isinstance(found, Message)] == [b"next"]


@given(st.data(), st.lists(st.sampled_from(FRAMES), max_size=12))
def test_a_stream_in_pieces_of_any_size(data: st.DataObject, frames: list[tuple[bytes, NsqEvent]]) -> None:
    stream = identified() + ok() + b"".join(received for received, _ in frames)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    made = Conversation(identify={}, subscription=Subscription("t", "c"))
    found: list[NsqEvent] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        made.receive_data(stream[start:end])
        found += events(made)
    assert found == [NSQD, Subscribed(), *(event for _, event in frames)]
    assert made.next_event() is None


def test_a_heartbeat_is_answered_by_nop() -> None:
    made = connection()
    made.receive_data(heartbeat() + heartbeat())
    assert events(made) == [Heartbeat(), Heartbeat()]
    assert made.data_to_send() == b"NOP\nNOP\n"


@pytest.mark.parametrize("prefix", [b"", identified()])
def test_a_heartbeat_during_the_handshake_answers_nothing_else(prefix: bytes) -> None:
    made = connection(subscribed=False)
    made.receive_data(prefix + heartbeat())
    assert events(made)[-1] == Heartbeat()
    made.receive_data((b"" if prefix else identified()) + ok())
    assert events(made)[-1] == Subscribed()


def test_an_error_frame_in_answer_to_sub_does_not_subscribe() -> None:
    made = connection(subscribed=False)
    made.receive_data(identified() + error("E_BAD_CHANNEL SUB channel name 'x y' is not valid"))
    assert events(made) == [
        NSQD,
        Refused(code="E_BAD_CHANNEL", text="SUB channel name 'x y' is not valid", fatal=True),
    ]


# What nsqd would never send


@pytest.mark.parametrize("before", [b"", identified()])
def test_a_message_during_the_handshake(before: bytes) -> None:
    made = connection(subscribed=False)
    made.receive_data(before + message(b"{}"))
    with pytest.raises(ProtocolError, match="type 2, which is unknown, or not allowed in the handshake"):
        events(made)


BODY_OF_20 = frame(MESSAGE, b"x" * 20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">i", -1), "a frame of -1 bytes"),
        (struct.pack(">i", -(2**31)), "a frame of -2147483648 bytes"),
        (struct.pack(">i", 0), "a frame of 0 bytes"),
        (struct.pack(">i", 3), "a frame of 3 bytes"),
        (struct.pack(">i", MAX_FRAME + 1), "a frame of 16777217 bytes"),
        (struct.pack(">i", 2**31 - 1), "a frame of 2147483647 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP server answers there"),
        (frame(3, b""), "type 3, which is unknown"),
        (frame(-1, b"x"), "type -1, which is unknown"),
        (frame(2**31 - 1, b"x"), "type 2147483647, which is unknown"),
        (frame(MESSAGE, b""), "message frame of 0 bytes"),
        (frame(MESSAGE, b"x" * 25), "message frame of 25 bytes"),
    ],
)
def test_garbage_is_a_protocol_error(data: bytes, reason: str) -> None:
    made = connection()
    made.receive_data(data)
    with pytest.raises(ProtocolError, match=reason):
        made.next_event()


def test_an_announced_frame_is_refused_before_it_is_received() -> None:
    made = Conversation(identify={}, max_frame=100)
    made.receive_data(struct.pack(">i", 101))
    with pytest.raises(ProtocolError, match="101 bytes; 4 to 100 are allowed"):
        made.next_event()


def test_the_largest_frame_is_taken() -> None:
    made = Conversation(identify={}, max_frame=4 + 26 + 74)
    made.receive_data(identified())
    made.receive_data(message(b"x" * 74))
    assert [len(found.body) for found in events(made) if isinstance(found, Message)] == [74]


@pytest.mark.parametrize(
    "answer",
    [
        b"OK",  # an nsqd without feature negotiation
        b"",
        b"{",
        b"[]",
        b"null",
        b"17",
        b'"text"',
        b"{}",
        b'{"max_rdy_count": 1, "msg_timeout": 1}',
        b'{"max_rdy_count": "many", "msg_timeout": 1000, "version": "1"}',
        b'{"max_rdy_count": null, "msg_timeout": 1000, "version": "1"}',
        b'{"max_rdy_count": 1, "msg_timeout": "60s", "version": "1"}',
        b'{"max_rdy_count": 1, "msg_timeout": [], "version": "1"}',
        b'{"max_rdy_count": 1, "msg_timeout": 0, "version": "1"}',
        b'{"max_rdy_count": 1, "msg_timeout": -5, "version": "1"}',
        b"\xff" * 200,
        b"[" * 100_000,
    ],
)
def test_an_answer_to_identify_that_cannot_be_used(answer: bytes) -> None:
    made = connection(subscribed=False)
    made.receive_data(frame(RESPONSE, answer))
    with pytest.raises(ProtocolError, match="answered IDENTIFY with b") as caught:
        made.next_event()
    assert len(str(caught.value)) < 400


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_any_bytes_give_events_or_a_protocol_error(pieces: Iterable[bytes]) -> None:
    made = connection()
    try:
        for piece in pieces:
            made.receive_data(piece)
            events(made)
    except ProtocolError:
        return
    assert made.next_event() is None
