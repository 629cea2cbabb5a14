# SPDX-License-Identifier: GPL-2.0-or-later
"""The consumer against an nsqd that does what a real one never does: it drops it, says why, and goes on."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from kemi_nsq.consumer.connector import Connector
from kemi_nsq.counters import Counter
from kemi_nsq.event import Event
from kemi_nsq.names import Subscription
from kemi_nsq.nsq import sockets as transport
from kemi_nsq.runtime.page import Gauge, read
from kemi_nsq.settings import Settings
from tests.support import frames
from tests.support.consuming import Consuming, numbered
from tests.support.scripted_nsqd import HANDSHAKE, Cut, Expect, Hold, Reset, ScriptedNsqd, Send, Step
from tests.support.until import until

PAIR = "events:kamailio"
ID = b"0123456789abcdef"
MESSAGE = frames.message(numbered(1), message_id=ID)

#: The handshake of an nsqd that wants an answer, or TOUCH, within a second.
IMPATIENT: list[Step] = [HANDSHAKE[0], Send(frames.identified(msg_timeout_ms=1000)), *HANDSHAKE[2:]]
LONGER_US = 1_200_000

IDLE: list[Step] = [*HANDSHAKE, Hold()]
GOOD: list[Step] = [*HANDSHAKE, Send(MESSAGE), Expect(b"FIN " + ID + b"\n"), Hold()]

#: What is wrong, the script, and what the log says about it.
EVIL: dict[str, tuple[list[Step], str]] = {
    "closes at once": ([Expect(b"IDENTIFY"), Expect(b"}"), Cut()], "closed the connection"),
    "closes in the answer to IDENTIFY": (
        [Expect(b"IDENTIFY"), Expect(b"}"), Send(frames.identified()[:20]), Cut()],
        "closed the connection",
    ),
    "closes in a message": ([*HANDSHAKE, Send(MESSAGE[:-3]), Cut()], "closed the connection"),
    "breaks off": ([*HANDSHAKE, Send(MESSAGE[:9]), Reset()], "Connection reset by peer"),
    "speaks HTTP": ([Send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Hold()], "an HTTP server answers there"),
    "announces 2 GB": ([*HANDSHAKE, Send(struct.pack(">i", 2**31 - 1)), Hold()], "a frame of 2147483647 bytes"),
    "announces less than nothing": ([*HANDSHAKE, Send(struct.pack(">i", -5)), Hold()], "a frame of -5 bytes"),
    "sends an unknown frame": ([*HANDSHAKE, Send(frames.frame(7, b"x")), Hold()], "a frame of type 7"),
    "sends half a message header": ([*HANDSHAKE, Send(frames.frame(2, b"x")), Hold()], "message frame of 1 bytes"),
    "knows no feature negotiation": ([Expect(b"IDENTIFY"), Send(frames.ok()), Hold()], "IDENTIFY with b'OK'"),
    "sends a message before SUB": ([Expect(b"IDENTIFY"), Send(MESSAGE), Hold()], "not allowed in the handshake"),
    "refuses IDENTIFY": ([Expect(b"IDENTIFY"), Send(frames.error("E_BAD_BODY no")), Hold()], "refused: E_BAD_BODY no"),
    "refuses SUB": (
        [Expect(b"IDENTIFY"), Send(frames.identified()), Expect(b"SUB "), Send(frames.error("E_BAD_TOPIC no")), Hold()],
        "refused: E_BAD_TOPIC no",
    ),
    "refuses RDY": ([*HANDSHAKE, Send(frames.error("E_INVALID RDY out of range")), Hold()], "E_INVALID RDY out of"),
    "never answers IDENTIFY": ([Expect(b"IDENTIFY"), Hold()], "silent for"),
    "never answers SUB": ([Expect(b"IDENTIFY"), Send(frames.identified()), Expect(b"SUB "), Hold()], "silent for"),
    "says no more": ([*HANDSHAKE, Send(MESSAGE[:9]), Hold()], "silent for"),
}


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the topic of replies to queries, so that each script is that of the one connection."""

    def connector(chosen: Settings, subscriptions: Sequence[Subscription], **callbacks: Any) -> Connector:
        return Connector(chosen, subscriptions[:-1], **callbacks)

    monkeypatch.setattr("kemi_nsq.consumer.supervisor.Connector", connector)


@pytest.mark.parametrize("name", EVIL)
def test_an_nsqd_that_misbehaves_is_left_and_tried_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, reason = EVIL[name]
    if reason == "silent for":
        monkeypatch.setattr("kemi_nsq.consumer.intake.SILENCE_S", 0.3)
    served = [*GOOD[:-1], Cut()] if reason == "silent for" else GOOD
    with (
        ScriptedNsqd(script, served, IDLE) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for([1])
        until(lambda: b"FIN " + ID in nsqd.received(1), what="FIN")
        assert Counter.RESTARTED not in consuming.host.counters
        assert consuming.host.counters[Counter.REFUSED] == ("refused" in reason or "E_INVALID" in reason)
    lost = [line for line in consuming.lines if line.startswith(f"lost {PAIR} at {nsqd.address}: ")]
    assert reason in lost[0]


def test_an_nsqd_that_misbehaves_does_not_disturb_another() -> None:
    evil: list[Step] = [*HANDSHAKE, Send(b"\xff" * 100), Hold()]
    with ScriptedNsqd(evil) as bad, ScriptedNsqd(GOOD) as good:
        # Sorted by address: which of them is connected first does not matter.
        addresses = f"{bad.address},{good.address}"
        with Consuming(nsqd_tcp_address=addresses, topic_channel=PAIR) as consuming:
            consuming.wait_for([1])
            until(lambda: bad.connections >= 4, what="the evil one to be tried again")
            assert good.connections == 1
            assert Counter.RESTARTED not in consuming.host.counters


@pytest.mark.parametrize("piece", [1, 3, 7])
def test_frames_in_small_pieces(piece: int) -> None:
    answers = [Send(step.data, piece) if isinstance(step, Send) else step for step in GOOD]
    with (
        ScriptedNsqd(answers) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for([1])
        until(lambda: b"FIN " + ID in nsqd.received(0), what="FIN")


def test_a_peer_that_takes_a_few_bytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    send = transport.send
    monkeypatch.setattr(transport, "send", lambda connection, data: send(connection, data[:3]))
    with (
        ScriptedNsqd(GOOD) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for([1])
        until(lambda: nsqd.received(0).endswith(b"FIN " + ID + b"\n"), what="FIN")


def test_the_handshake_as_nsqd_sees_it() -> None:
    with (
        ScriptedNsqd(GOOD) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR, max_in_flight="7") as consuming,
    ):
        consuming.wait_for([1])
        until(lambda: nsqd.received(0).endswith(b"FIN " + ID + b"\n"), what="FIN")
        _, _, after = nsqd.received(0).partition(b"}")
        assert after == b"SUB events kamailio\nRDY 7\nFIN " + ID + b"\n"


def test_a_heartbeat_is_answered_at_once() -> None:
    script: list[Step] = [*HANDSHAKE, Send(frames.heartbeat()), Expect(b"NOP\n"), Send(MESSAGE), Hold()]
    with (
        ScriptedNsqd(script) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for([1])


@pytest.mark.parametrize("code", ["E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED"])
def test_an_error_that_is_not_fatal_keeps_the_connection(code: str) -> None:
    script: list[Step] = [*HANDSHAKE, Send(frames.error(f"{code} ID not in flight")), Send(MESSAGE), Hold()]
    with (
        ScriptedNsqd(script) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for([1])
        assert nsqd.connections == 1
        until(lambda: consuming.host.counters[Counter.REFUSED] == 1, what="the refusal")
        assert Counter.DISCONNECTED not in consuming.host.counters


def test_a_message_is_answered_on_its_own_connection_only() -> None:
    first = [*HANDSHAKE, Send(MESSAGE), Cut()]
    again = frames.message(numbered(2), message_id=ID, attempts=2)
    second = [*HANDSHAKE, Send(again), Expect(b"FIN " + ID + b"\n"), Hold()]
    release = threading.Event()

    def slow(_event: Event) -> None:
        assert release.wait(10)

    with (
        ScriptedNsqd(first, second) as nsqd,
        Consuming(None, slow, nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for([1])
        until(lambda: nsqd.connections == 2 and b"RDY" in nsqd.received(1), what="the new connection")
        release.set()
        consuming.wait_for([2])
        until(lambda: b"FIN" in nsqd.received(1), what="FIN")
        assert nsqd.received(1).count(b"FIN " + ID) == 1


def test_a_message_that_was_finished_too_late_is_not_handled_again() -> None:
    """A route that keeps Python's lock prevents TOUCH; nsqd may be about to send the message again when FIN comes."""
    fin = Expect(b"FIN " + ID + b"\n")
    other = b"a message's id 2"
    refusal = frames.error(f"E_FIN_FAILED FIN {ID.decode()} failed ID not in flight")
    again = frames.message(numbered(1), message_id=ID, attempts=2)
    answers = Send(refusal + again + frames.message(numbered(2), message_id=other))
    script = [*IMPATIENT, Send(MESSAGE), fin, answers, fin, Expect(b"FIN " + other + b"\n"), Hold()]

    def keep_the_lock(event: Event) -> None:
        if event.payload == numbered(1).decode():
            ctypes.PyDLL(None).usleep(LONGER_US)

    with (
        ScriptedNsqd(script) as nsqd,
        Consuming(None, keep_the_lock, nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for([2])
        until(lambda: b"FIN " + other in nsqd.received(0), what="FIN of the next message")
        assert consuming.numbers == [1, 2]


def test_a_message_given_back_too_late_is_handled_again() -> None:
    """Only what is finished is done."""
    again = Send(frames.message(numbered(1), message_id=ID, attempts=2))
    script = [*IMPATIENT, Send(MESSAGE), Expect(b"REQ " + ID), again, Expect(b"FIN " + ID), Hold()]

    def keep_the_lock(event: Event) -> int | None:
        if event.attempts > 1:
            return None
        ctypes.PyDLL(None).usleep(LONGER_US)
        return -1

    with (
        ScriptedNsqd(script) as nsqd,
        Consuming(None, keep_the_lock, nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        until(lambda: consuming.numbers == [1, 1], what="both attempts")
        until(lambda: b"FIN " + ID in nsqd.received(0), what="FIN")


def test_many_messages_in_one_piece_are_each_finished() -> None:
    ids = [b"%016d" % number for number in range(200)]
    burst = b"".join(frames.message(numbered(number), message_id=each) for number, each in enumerate(ids))
    script: list[Step] = [*HANDSHAKE, Send(burst), *(Expect(b"FIN " + each + b"\n") for each in ids), Hold()]
    with (
        ScriptedNsqd(script) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        consuming.wait_for(range(200))
        until(lambda: nsqd.received(0).count(b"FIN ") == 200, what="200 FIN")
    assert consuming.numbers == list(range(200)), "in the order in which they came"


def test_a_message_that_is_as_large_as_nsqd_allows() -> None:
    large = frames.message(b'{"n": 1, "x": "' + b"x" * 1_000_000 + b'"}', message_id=ID)
    script: list[Step] = [*HANDSHAKE, Send(large), Expect(b"FIN " + ID), Hold()]
    with (
        ScriptedNsqd(script) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, topic_channel=PAIR, max_event_size="1048576") as consuming,
    ):
        consuming.wait_for([1])
        until(lambda: b"FIN " + ID in nsqd.received(0), what="FIN")


def test_attempts_are_counted_without_a_sign() -> None:
    # 40000 does not fit 16 bits with a sign.
    worn_out = frames.message(numbered(1), message_id=ID, attempts=40_000)
    script: list[Step] = [*HANDSHAKE, Send(worn_out), Expect(b"FIN " + ID), Hold()]
    with (
        ScriptedNsqd(script) as nsqd,
        Consuming(None, nsqd_tcp_address=nsqd.address, topic_channel=PAIR) as consuming,
    ):
        until(lambda: b"FIN " + ID in nsqd.received(0), what="FIN")
    assert [event.attempts for event in consuming.events] == [40_000]


def test_what_is_in_flight_at_the_end_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[Step] = [*HANDSHAKE, Send(MESSAGE), Expect(b"RDY 0\n"), Expect(b"REQ " + ID + b" 100\n"), Hold()]
    with ScriptedNsqd(first, IDLE) as nsqd:
        tested = Consuming(None, nsqd_tcp_address=nsqd.address, topic_channel=PAIR)
        interruptions = [KeyboardInterrupt()]

        def interrupted(*_: object) -> None:
            if interruptions:
                raise interruptions.pop()

        monkeypatch.setattr(tested.parts.supervisor._handling, "handle", interrupted)
        with tested as consuming:
            until(lambda: nsqd.received(0).endswith(b"RDY 0\nREQ " + ID + b" 100\n"), what="REQ")
            until(lambda: consuming.host.counters[Counter.RESTARTED] == 1, what="the restart")
            until(lambda: nsqd.connections == 2 and b"RDY" in nsqd.received(1), what="the new connection")


# More than it was asked for

FLOOD = 30_000


def flood(count: int, size: int) -> list[Step]:
    """Return a script that sends messages whatever RDY says, and keeps the connection."""
    body = numbered(1).ljust(size)
    ids = (b"%016x" % number for number in range(count))
    return [*HANDSHAKE, *(Send(frames.message(body, message_id=each)) for each in ids), Hold()]


@pytest.mark.parametrize(
    ("script", "bound"),
    [
        (flood(FLOOD, 20), 1000 + 4 * 5 + 1),
        (flood(900, 1_000_000), 68),  # 64 MiB, and the one that is handled
    ],
    ids=["messages", "bytes"],
)
def test_a_nsqd_that_ignores_rdy_loses_its_connection_before_the_queue_is_large(script: list[Step], bound: int) -> None:
    release = threading.Event()

    def stuck(_event: Event) -> None:
        assert release.wait(60)

    with (
        ScriptedNsqd(script, IDLE) as nsqd,
        Consuming(
            nsqd_tcp_address=nsqd.address, handler=stuck, topic_channel=PAIR, max_event_size="1048576"
        ) as consuming,
    ):
        until(lambda: nsqd.connections == 2, timeout_s=20, what="the next connection")
        sheet = read(bytes(consuming.host.page.memory))
        assert sheet is not None
        assert sheet.counters[Counter.OVERFILLED] == sheet.counters[Counter.DISCONNECTED] == 1, "while it is stuck"
        release.set()
        until(lambda: consuming.host.counters[Counter.OVERFILLED] == 1, what="the server's counter")
        # The first may have been begun before the queue was full, or not.
        until(lambda: len(consuming.events) >= bound - 1, timeout_s=20, what="what was in the queue to be handled")
        assert len(consuming.events) <= bound
        lost = until(
            lambda: [line for line in consuming.lines if line.startswith("lost ")], what="the line that says so"
        )
        (line,) = lost
        assert "nsqd sends more than it was asked for: " in line
        assert line.endswith("wait here, and RDY was at most 5")


def test_a_nsqd_that_floods_at_each_connection_is_left_alone_for_longer_each_time() -> None:
    release = threading.Event()

    def stuck(_event: Event) -> None:
        assert release.wait(60)

    with (
        ScriptedNsqd(flood(FLOOD, 20)) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, handler=stuck, topic_channel=PAIR) as consuming,
    ):
        until(lambda: nsqd.connections >= 5, timeout_s=20, what="the fifth connection")
        sheet = read(bytes(consuming.host.page.memory))
        (attempt,) = consuming._consumer._connector._targets._attempts.values()
        until(lambda: attempt.failures >= 4, what="four failures in a row")
        release.set()
    assert sheet is not None
    assert sheet.counters[Counter.OVERFILLED] >= 4
    # Each connection may add what its RDY allows, as any other's may while the queue is full.
    assert 1019 <= sheet.gauges[Gauge.QUEUED] <= 1020 + 5 * nsqd.connections


def test_a_nsqd_that_keeps_to_a_large_rdy_keeps_its_connection() -> None:
    release = threading.Event()

    def stuck(_event: Event) -> None:
        assert release.wait(60)

    with (
        ScriptedNsqd(flood(2500, 20)) as nsqd,
        Consuming(nsqd_tcp_address=nsqd.address, handler=stuck, topic_channel=PAIR, max_in_flight="2500") as consuming,
    ):
        until(lambda: consuming.host.page.doing, what="the first to be handled")
        release.set()
        until(lambda: len(consuming.events) == 2500, timeout_s=20, what="all")
    assert Counter.OVERFILLED not in consuming.host.counters


def test_what_was_finished_when_its_connection_had_gone_is_not_handled_again() -> None:
    """As after a native route that kept Python's lock for longer than nsqd bears: it would run for ever."""
    release = threading.Event()
    handled: list[str] = []

    def slow(event: Event) -> None:
        handled.append(event.message_id)
        assert release.wait(10)

    first: list[Step] = [*HANDSHAKE, Send(MESSAGE), Cut()]
    with (
        ScriptedNsqd(first, IDLE, GOOD) as server,
        Consuming(handler=slow, nsqd_tcp_address=server.address, topic_channel=PAIR) as consuming,
    ):
        until(lambda: server.connections == 2, what="a new connection, while the message is handled")
        release.set()
        io = consuming.parts.supervisor._io
        until(lambda: io._intake._done, what="it to be done")
        for wire in list(io._wires.values()):
            wire.socket.shutdown(socket.SHUT_RDWR)  # the next one brings it again
        until(lambda: b"FIN " + ID in server.received(server.connections - 1), what="FIN")
        assert handled == [ID.decode()]


def test_who_kept_python_s_lock_is_named_and_nsqd_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.intake.HEARTBEAT_S", 1.0)
    monkeypatch.setattr("kemi_nsq.consumer.intake.SILENCE_S", 1.0)

    def keeps_the_lock(_event: Event) -> None:
        ctypes.PyDLL(None).usleep(LONGER_US)

    with (
        ScriptedNsqd(GOOD) as server,
        Consuming(handler=keeps_the_lock, nsqd_tcp_address=server.address, topic_channel=PAIR) as consuming,
    ):
        until(lambda: b"FIN " + ID in server.received(0), what="FIN on the same connection")
        line = until(lambda: [text for text in consuming.lines if "lock was kept" in text], what="the line")[0]
        assert line.startswith("Python's lock was kept for 1 s, last by ")
        assert not any("nsqd was silent" in text for text in consuming.lines)
