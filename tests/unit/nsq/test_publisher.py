# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nsqd gets a message, how long a failed one is left alone, and how the time is shared; no socket, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterator

import orjson
import pytest

from kemi_nsq.delays import BREAKER_FIRST_S, BREAKER_MAX_S
from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, NsqdRefused, ProtocolError
from kemi_nsq.names import Address
from kemi_nsq.nsq import ways as module
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import HttpWay, Outgoing, TcpWay
from tests.support import frames
from tests.support.clock import SetClock
from tests.support.settings import settings

MESSAGE = Outgoing(topic="t", body=b"{}")
TIMEOUT_S = 0.5
LOST = ConnectionLost("gone")
LATE = DeadlineExceeded("no answer in time")


class FakeWay:
    """A nsqd that takes messages, or fails as it is told: a late one uses up all the time that it is given."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.failure: Exception | None = None
        self.given_s: list[float] = []

    def publish(self, _message: Outgoing, deadline: float) -> None:
        self.given_s.append(deadline - self.clock.monotonic)
        if isinstance(self.failure, DeadlineExceeded):
            self.clock.monotonic = max(self.clock.monotonic, deadline)
        if self.failure is not None:
            raise self.failure


Made = tuple[Publisher, list[FakeWay], SetClock]


def make(monkeypatch: pytest.MonkeyPatch, count: int) -> Made:
    clock = SetClock()
    ways: list[FakeWay] = []

    def way(_address: Address, _node: str) -> FakeWay:
        ways.append(FakeWay(clock))
        return ways[-1]

    monkeypatch.setattr(module, "TcpWay", way)
    addresses = ",".join(f"nsqd{number}:4150" for number in range(1, count + 1))
    return Publisher(settings(nsqd_tcp_address=addresses, publish_timeout=str(TIMEOUT_S)), clock.clock), ways, clock


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Made:
    return make(monkeypatch, 1)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Made:
    return make(monkeypatch, 3)


def calls(ways: list[FakeWay]) -> list[int]:
    return [len(way.given_s) for way in ways]


# Several nsqd


def test_the_first_nsqd_gets_everything_while_it_takes_it(three: Made) -> None:
    publisher, ways, _ = three
    for _ in range(5):
        publisher.publish(MESSAGE)
    assert calls(ways) == [5, 0, 0]


@pytest.mark.parametrize("failure", [LOST, LATE, ProtocolError("garbage"), NsqdRefused("E_PUB_FAILED", "", fatal=True)])
def test_the_next_takes_over_when_one_fails(three: Made, failure: Exception) -> None:
    publisher, ways, _ = three
    ways[0].failure = ways[1].failure = failure
    publisher.publish(MESSAGE)
    assert calls(ways) == [1, 1, 1]


def test_the_one_that_failed_is_left_alone_and_then_tried_again(three: Made) -> None:
    publisher, ways, clock = three
    ways[0].failure = LOST
    publisher.publish(MESSAGE)
    publisher.publish(MESSAGE)
    assert calls(ways) == [1, 2, 0]
    clock.monotonic += BREAKER_FIRST_S
    ways[0].failure = None
    publisher.publish(MESSAGE)
    publisher.publish(MESSAGE)
    assert calls(ways) == [3, 2, 0]


def test_the_pause_doubles_up_to_its_limit_and_begins_anew_after_a_success(one: Made) -> None:
    publisher, (way,), clock = one

    def pause() -> float:
        """Fail once and return for how long the nsqd is left alone then, to a hundredth of a second."""
        with pytest.raises(ConnectionLost):
            publisher.publish(MESSAGE)
        tried, failed_at = len(way.given_s), clock.monotonic
        while True:
            clock.monotonic += 0.01
            with pytest.raises(ConnectionLost):
                publisher.publish(MESSAGE)
            if len(way.given_s) > tried:
                # That was the next failure, so undo it.
                publisher._nsqds[0].failures -= 1
                publisher._nsqds[0].closed_until = 0.0
                return clock.monotonic - failed_at

    way.failure = LOST
    pauses = [pause() for _ in range(8)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, BREAKER_MAX_S, BREAKER_MAX_S], abs=0.02)
    way.failure = None
    publisher.publish(MESSAGE)
    way.failure = LOST
    assert pause() == pytest.approx(BREAKER_FIRST_S, abs=0.02)


@pytest.mark.parametrize(
    "code", ["E_BAD_MESSAGE", "E_BAD_TOPIC", "E_INVALID", "MSG_TOO_BIG", "MSG_EMPTY", "INVALID_TOPIC", "INVALID_DEFER"]
)
def test_a_message_that_is_wrong_is_not_tried_elsewhere_and_nobody_is_blamed(three: Made, code: str) -> None:
    publisher, ways, _ = three
    ways[0].failure = NsqdRefused(code, "why", fatal=True)
    for _ in range(2):
        with pytest.raises(NsqdRefused, match=f"{code} why"):
            publisher.publish(MESSAGE)
    assert calls(ways) == [2, 0, 0]


def test_when_all_fail_each_reason_is_named(three: Made) -> None:
    publisher, ways, _ = three
    ways[0].failure = ConnectionLost("nsqd1:4150: Connection refused")
    ways[1].failure = LATE
    ways[2].failure = ProtocolError("nsqd announced a frame of 0 bytes")
    with pytest.raises(ConnectionLost) as caught:
        publisher.publish(MESSAGE)
    assert str(caught.value) == (
        "nsqd1:4150: Connection refused; nsqd2:4150 no answer in time; nsqd3:4150 nsqd announced a frame of 0 bytes"
    )


def test_those_that_are_left_alone_are_named_too(three: Made) -> None:
    publisher, ways, _ = three
    for way in ways:
        way.failure = LOST
    with pytest.raises(ConnectionLost):
        publisher.publish(MESSAGE)
    with pytest.raises(ConnectionLost) as caught:
        publisher.publish(MESSAGE)
    assert calls(ways) == [1, 1, 1]
    assert str(caught.value) == "; ".join(f"nsqd{number}:4150 left alone after 1 failures" for number in (1, 2, 3))


# Time


def test_one_nsqd_has_all_the_time(one: Made) -> None:
    publisher, (way,), _ = one
    publisher.publish(MESSAGE)
    assert way.given_s == [pytest.approx(TIMEOUT_S)]


def test_frozen_ones_leave_time_for_the_others_and_all_end_in_time(three: Made) -> None:
    publisher, ways, clock = three
    for way in ways:
        way.failure = LATE
    started = clock.monotonic
    with pytest.raises(ConnectionLost):
        publisher.publish(MESSAGE)
    assert [way.given_s for way in ways] == [[pytest.approx(TIMEOUT_S / 3)]] * 3
    assert clock.monotonic - started == pytest.approx(TIMEOUT_S)


def test_who_fails_at_once_leaves_its_time_to_the_others(three: Made) -> None:
    publisher, ways, _ = three
    ways[0].failure = ways[1].failure = LOST
    publisher.publish(MESSAGE)
    assert ways[2].given_s == [pytest.approx(TIMEOUT_S)]


def test_a_caller_in_a_hurry_has_less(three: Made) -> None:
    publisher, ways, clock = three
    for way in ways:
        way.failure = LATE
    started = clock.monotonic
    with pytest.raises(ConnectionLost):
        publisher.publish(MESSAGE, until=clock.monotonic + 0.03)
    assert clock.monotonic - started == pytest.approx(0.03)


def test_a_caller_with_more_time_waits_no_longer(one: Made) -> None:
    publisher, (way,), clock = one
    publisher.publish(MESSAGE, until=clock.monotonic + 60)
    assert way.given_s == [pytest.approx(TIMEOUT_S)]


def test_http_asks_the_http_addresses() -> None:
    publisher = Publisher(settings(publish_transport="http", nsqd_address="h1:1,h2:2", nsqd_tcp_address="x:9"))
    assert [str(nsqd.address) for nsqd in publisher._nsqds] == ["h1:1", "h2:2"]
    assert all(isinstance(nsqd.way, HttpWay) for nsqd in publisher._nsqds)


# One connection


class FakeSocket:
    """A connection whose answers are written down in `scripts`: bytes to receive, or what receiving raises."""

    scripts: list[list[bytes | Exception]]
    opened: list[FakeSocket]

    def __init__(self, _address: Address, _deadline: float) -> None:
        self.script = self.scripts.pop(0)
        self.sent = b""
        self.closed = False
        if self.script and isinstance(self.script[0], ConnectionLost):
            raise self.script[0]
        self.opened.append(self)

    def send_all(self, data: bytes, _deadline: float) -> None:
        assert not self.closed
        self.sent += data

    def receive(self, _deadline: float) -> bytes:
        assert not self.closed
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True


HELLO, OK = frames.identified(), frames.ok()


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeSocket]]:
    FakeSocket.scripts, FakeSocket.opened = [], []
    monkeypatch.setattr(module, "BlockingSocket", FakeSocket)
    yield FakeSocket
    assert FakeSocket.scripts == [], "fewer connections than the test expected"


def way() -> TcpWay:
    return TcpWay(Address("nsqd1", 4150), "node")


def test_a_connection_is_opened_once_and_asks_for_no_heartbeats(sockets: type[FakeSocket]) -> None:
    sockets.scripts = [[HELLO, OK, OK]]
    tcp = way()
    assert sockets.opened == []
    tcp.publish(MESSAGE, math.inf)
    tcp.publish(Outgoing(topic="t", body=b"[1]", delay_ms=70), math.inf)
    (used,) = sockets.opened
    head, _, rest = used.sent.partition(b"IDENTIFY\n")
    assert head == b"  V2"
    size = int.from_bytes(rest[:4])
    identify = orjson.loads(rest[4 : 4 + size])
    assert identify["heartbeat_interval"] == -1
    assert identify["hostname"] == "node"
    assert rest[4 + size :] == b"PUB t\n\0\0\0\2{}DPUB t 70\n\0\0\0\3[1]"


def test_answers_may_come_byte_by_byte(sockets: type[FakeSocket]) -> None:
    sockets.scripts = [[bytes([each]) for each in HELLO + OK]]
    way().publish(MESSAGE, math.inf)


def test_a_kept_connection_that_is_gone_is_replaced_once_unseen(sockets: type[FakeSocket]) -> None:
    sockets.scripts = [[HELLO, OK, LOST], [HELLO, OK, OK]]
    tcp = way()
    for _ in range(3):
        tcp.publish(MESSAGE, math.inf)
    first, second = sockets.opened
    assert first.closed
    assert not second.closed
    assert second.sent.count(b"PUB t\n") == 2


def test_a_new_connection_that_is_lost_is_not_replaced(sockets: type[FakeSocket]) -> None:
    sockets.scripts = [[HELLO, LOST]]
    with pytest.raises(ConnectionLost):
        way().publish(MESSAGE, math.inf)
    assert sockets.opened[0].closed


def test_a_replacement_that_fails_is_the_end_of_it(sockets: type[FakeSocket]) -> None:
    sockets.scripts = [[HELLO, OK, LOST], [ConnectionLost("refused")]]
    tcp = way()
    tcp.publish(MESSAGE, math.inf)
    with pytest.raises(ConnectionLost, match="refused"):
        tcp.publish(MESSAGE, math.inf)


REFUSAL = frames.error("E_BAD_MESSAGE PUB message too big")
FAILURES = {
    "late": ([LATE], DeadlineExceeded),
    "refused": ([REFUSAL], NsqdRefused),
    "garbage": ([b"\0\0\0\0\0\0\0\0"], ProtocolError),
    "a message": ([frames.message(b"x")], ProtocolError),
    "a bug": ([RuntimeError("a bug")], RuntimeError),
}


@pytest.mark.parametrize(("answers", "error"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("before", ["new", "kept", "replaced"])
def test_after_any_failure_the_next_message_has_a_new_connection(
    sockets: type[FakeSocket], before: str, answers: list[bytes | Exception], error: type[Exception]
) -> None:
    """A late OK must not be taken for the answer to another message."""
    scripts: dict[str, list[list[bytes | Exception]]] = {
        "new": [[HELLO, *answers]],
        "kept": [[HELLO, OK, *answers]],
        "replaced": [[HELLO, OK, LOST], [HELLO, *answers]],
    }
    sockets.scripts = [*scripts[before], [HELLO, OK]]
    tcp = way()
    if before != "new":
        tcp.publish(MESSAGE, math.inf)
    with pytest.raises(error):
        tcp.publish(MESSAGE, math.inf)
    tcp.publish(MESSAGE, math.inf)
    *used, last = sockets.opened
    assert all(each.closed for each in used)
    assert not last.closed


def test_who_is_no_nsqd_is_told(sockets: type[FakeSocket]) -> None:
    sockets.scripts = [[frames.error("E_BAD_PROTOCOL")]]
    with pytest.raises(ProtocolError, match="nsqd1:4150 does not answer as nsqd"):
        way().publish(MESSAGE, math.inf)
    assert sockets.opened[0].closed


def test_why_nsqd_refused_is_read_although_it_did_not_take_all(
    sockets: type[FakeSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets.scripts = [[HELLO, REFUSAL]]
    original = FakeSocket.send_all

    def send_all(self: FakeSocket, data: bytes, deadline: float) -> None:
        original(self, data, deadline)
        if b"PUB" in data:
            raise ConnectionLost("Connection reset by peer")

    monkeypatch.setattr(FakeSocket, "send_all", send_all)
    with pytest.raises(NsqdRefused, match="message too big"):
        way().publish(MESSAGE, math.inf)
