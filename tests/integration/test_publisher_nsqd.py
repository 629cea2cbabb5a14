# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing to a real nsqd: 1 only after its OK, and an end in time whatever it does."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.errors import ConnectionLost, NsqdRefused
from kemi_nsq.names import Subscription, address
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Batch, Outgoing
from kemi_nsq.tools.reader import Reader
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK
from tests.support.scripted_nsqd import Cut, Expect, Hold, Reset, ScriptedNsqd, Send, Step
from tests.support.settings import settings
from tests.support.until import until

#: A publisher keeps its connections as long as its process lives, so it has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

MAX_MSG_SIZE = 1_000_000
#: How late a call may end on a busy machine.
LATE_S = 0.1


@pytest.fixture(scope="module")
def nsqd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsqd]:
    with Nsqd(tmp_path_factory.mktemp("nsqd"), max_msg_size=MAX_MSG_SIZE) as server:
        yield server


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Nsqd, Nsqd]]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(Nsqd(tmp_path / name)) for name in ("first", "second"))
        yield first, second
        first.thaw()


@pytest.fixture(params=["tcp", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def publisher(*servers: Nsqd, transport: str = "tcp", timeout_s: float = 2.0) -> Publisher:
    return Publisher(
        settings(
            nsqd_tcp_address=",".join(server.tcp_address for server in servers),
            nsqd_address=",".join(server.http_address for server in servers),
            publish_transport=transport,
            publish_timeout=str(timeout_s),
        )
    )


def message(topic: str, body: bytes = b"{}", *, delay_ms: int = 0) -> Outgoing:
    return Outgoing(topic=topic, body=body, delay_ms=delay_ms)


def taken(server: Nsqd, topic: str) -> int:
    """Return how many messages of a topic nsqd has got."""
    try:
        return server.topic(topic)["message_count"]
    except LookupError:
        return 0


def published(made: Publisher, topic: str) -> bool:
    """Publish one message and return True, for `until`."""
    made.publish(message(topic))
    return True


def read(server: Nsqd, topic: str) -> nsq.Message:
    """Take one message."""
    reader = Reader(address(server.tcp_address), Subscription(topic, "test"))
    try:
        return reader.next_message(10)
    finally:
        reader.close()


#: A server that takes one message through HTTP.
TAKES: list[Step] = [Expect(b"{}"), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")]


def http_publisher(server: ScriptedNsqd, timeout_s: float = 2.0) -> Publisher:
    return Publisher(settings(nsqd_address=server.address, publish_transport="http", publish_timeout=str(timeout_s)))


# One nsqd


@pytest.mark.parametrize("size", [1, 500, 16_384, 100_000, MAX_MSG_SIZE])
def test_what_is_published_is_there_when_the_call_returns(nsqd: Nsqd, transport: str, size: int) -> None:
    topic = f"there-{transport}-{size}"
    publisher(nsqd, transport=transport).publish(message(topic, b"x" * size))
    assert taken(nsqd, topic) == 1
    assert read(nsqd, topic).body == b"x" * size


def batch(topic: str, *bodies: bytes) -> Batch:
    return Batch(topic, [len(body).to_bytes(4) + body for body in bodies])


def test_a_batch_is_there_whole_and_in_order(nsqd: Nsqd, transport: str) -> None:
    topic, bodies = f"batch-{transport}", [b"%d" % number for number in range(500)]
    made = publisher(nsqd, transport=transport)
    made.publish(batch(topic, *bodies))
    made.publish(batch(topic, b"one"))
    assert taken(nsqd, topic) == 501
    with closing(Reader(address(nsqd.tcp_address), Subscription(topic, "test"))) as reader:
        came = sorted((reader.next_message(10) for _ in range(501)), key=lambda each: each.timestamp_ns)
    assert [each.body for each in came] == [*bodies, b"one"]


@pytest.mark.parametrize("wrong", [b"", b"x" * (MAX_MSG_SIZE + 1)], ids=["empty", "too large"])
def test_a_batch_with_a_wrong_message_is_refused_whole(nsqd: Nsqd, transport: str, wrong: bytes) -> None:
    topic = f"refused-{transport}-{len(wrong)}"
    made = publisher(nsqd, transport=transport)
    with pytest.raises(NsqdRefused):
        made.publish(batch(topic, b"1", wrong, b"2"))
    assert taken(nsqd, topic) == 0
    made.publish(batch(topic, b"1", b"2"))
    assert taken(nsqd, topic) == 2


def test_a_batch_that_is_too_large_as_a_whole_is_refused(tmp_path: Path, transport: str) -> None:
    with Nsqd(tmp_path, max_body_size=1_000) as server:
        made = publisher(server, transport=transport)
        with pytest.raises(NsqdRefused):
            made.publish(batch("t", *[b"x" * 100] * 20))
        made.publish(batch("t", *[b"x" * 100] * 5))
        assert taken(server, "t") == 5


def test_what_is_much_too_large_is_refused_in_time(tmp_path: Path, transport: str) -> None:
    """Over HTTP nsqd answers at once, reads no more, and closes half a second later."""
    with Nsqd(tmp_path, max_msg_size=MAX_MSG_SIZE) as server:
        started = time.monotonic()
        with pytest.raises(NsqdRefused):
            publisher(server, transport=transport, timeout_s=2.0).publish(message("t", b"x" * 6_000_000))
        assert time.monotonic() - started < 0.4 + LATE_S
        assert taken(server, "t") == 0


def test_a_frozen_nsqd_gets_no_copy_for_each_try(tmp_path: Path, transport: str) -> None:
    with Nsqd(tmp_path) as server:
        made = publisher(server, transport=transport, timeout_s=0.2)
        made.publish(message("t"))
        server.freeze()
        tries = 0
        while tries < 4:  # others find it left alone
            try:
                made.publish(message("t"))
            except ConnectionLost as error:
                tries += "left alone" not in str(error)
        server.thaw()
        until(lambda: published(made, "t"), what="it to take messages again")
        until(lambda: taken(server, "t") >= 2, what="what it had")
        assert taken(server, "t") <= 3, "one before, the first that got no answer, one after"


@pytest.mark.parametrize("delay_ms", [1, 700])
def test_a_deferred_message_comes_no_earlier_than_it_should(tmp_path: Path, transport: str, delay_ms: int) -> None:
    with Nsqd(tmp_path) as server:
        server.create_topic("later")
        server.create_channel("later", "test")
        server.stop()
        server.start()  # into a new channel nsqd looks for delays only every 5 seconds
        started = time.monotonic()
        publisher(server, transport=transport).publish(message("later", delay_ms=delay_ms))
        assert time.monotonic() - started < 0.5
        found = read(server, "later")
        assert delay_ms / 1000 <= time.monotonic() - started < delay_ms / 1000 + 2
        assert found.attempts == 1


@pytest.mark.parametrize("size", [0, MAX_MSG_SIZE + 1, 2 * MAX_MSG_SIZE, 20 * MAX_MSG_SIZE])
def test_a_message_of_a_wrong_size_is_refused_by_name_and_nothing_is_broken(
    nsqd: Nsqd, transport: str, size: int
) -> None:
    topic = f"size-{transport}-{size}"
    made = publisher(nsqd, transport=transport)
    made.publish(message(topic))
    for _ in range(3):
        with pytest.raises(NsqdRefused, match=r"E_BAD_MESSAGE|MSG_TOO_BIG|MSG_EMPTY"):
            made.publish(message(topic, b"x" * size))
    made.publish(message(topic))
    assert taken(nsqd, topic) == 2


def test_a_delay_beyond_what_nsqd_allows_is_refused_by_name(nsqd: Nsqd, transport: str) -> None:
    made = publisher(nsqd, transport=transport)
    made.publish(message("delay", delay_ms=3_600_000))
    with pytest.raises(NsqdRefused, match=r"E_INVALID|INVALID_DEFER"):
        made.publish(message("delay", delay_ms=3_600_001))


def test_a_connection_is_kept(tmp_path: Path) -> None:
    with Nsqd(tmp_path) as server:
        made = publisher(server)
        for _ in range(20):
            made.publish(message("kept"))
        assert taken(server, "kept") == 20
        assert server.log_text().count("TCP: new client") == 1


def test_a_connection_is_kept_with_http_too() -> None:
    with ScriptedNsqd([*TAKES * 20, Hold()]) as server:
        made = http_publisher(server)
        assert server.connections == 0, "nothing is opened before it is used"
        for _ in range(20):
            made.publish(message("kept"))
        assert server.connections == 1


def test_a_child_shares_no_connection_with_its_parent(tmp_path: Path, transport: str) -> None:
    """A script may publish in its `mod_init`, before Kamailio forks."""
    with Nsqd(tmp_path) as server:
        made = publisher(server, transport=transport)
        made.publish(message("before"))
        child = os.fork()
        if not child:
            code = 1
            try:
                for _ in range(50):
                    made.publish(message("after"))
                code = 0
            finally:
                os._exit(code)
        for _ in range(50):
            made.publish(message("after"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert taken(server, "after") == 100


# A nsqd that goes away


def test_a_restart_of_nsqd_is_not_noticed(tmp_path: Path, transport: str) -> None:
    with Nsqd(tmp_path) as server:
        made = publisher(server, transport=transport)
        made.publish(message("restart"))
        for end in (server.stop, server.kill):
            end()
            server.start()
            made.publish(message("restart"))
        read(server, "restart")


#: How a server ends a connection: before, or after another message has come on it.
ENDS: dict[str, list[Step]] = {
    "closed": [Cut()],
    "closed when used": [Expect(b"{}"), Cut()],
    "reset when used": [Expect(b"{}"), Reset()],
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_http_sends_once_more_over_a_new_connection_when_the_kept_one_is_gone(end: list[Step]) -> None:
    with ScriptedNsqd([*TAKES, *end], [*TAKES, Hold()]) as server:
        made = http_publisher(server)
        made.publish(message("t"))
        made.publish(message("t"))
        assert server.connections == 2
        assert server.received(1).count(b"POST /pub?topic=t") == 1


def test_http_sends_no_second_time_what_had_no_answer_in_time() -> None:
    """It may have been taken, and the time is over. Before it gets another message, it must answer."""
    answers: list[Step] = [Expect(b"/ping"), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")]
    with ScriptedNsqd([*TAKES, Hold()], [*answers, *TAKES, Hold()]) as server:
        made = http_publisher(server, timeout_s=0.2)
        made.publish(message("t"))
        with pytest.raises(ConnectionLost, match="timed out"):
            made.publish(message("t"))
        assert server.connections == 1
        until(lambda: published(made, "t"), what="the next try, over a new connection")
        assert server.connections == 2


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
def test_http_sends_no_second_time_what_a_status_was_the_answer_to(status: str) -> None:
    """The rest of the answer may be cut off: nsqd has decided."""
    cut = Send(f"HTTP/1.1 {status}\r\nContent-Length: 20\r\n\r\nOK".encode())
    with ScriptedNsqd([*TAKES, Expect(b"{}"), cut, Cut()], [*TAKES, Hold()]) as server:
        made = http_publisher(server)
        made.publish(message("t"))
        with nullcontext() if status.startswith("200") else pytest.raises(ConnectionLost, match="HTTP 400"):
            made.publish(message("t"))
        assert server.connections == 1


def test_http_is_probed_by_a_new_connection_which_is_kept() -> None:
    ping: list[Step] = [Expect(b"GET /ping"), *TAKES[1:]]
    with ScriptedNsqd([*TAKES, Hold()], [*ping, *TAKES, Hold()]) as server:
        made = http_publisher(server)
        made.publish(message("t"))
        made.trial()
        made.publish(message("t"))
        assert server.connections == 2


def test_a_nsqd_that_is_down_fails_at_once_and_is_tried_again_later(tmp_path: Path, transport: str) -> None:
    with Nsqd(tmp_path) as server:
        made = publisher(server, transport=transport)
        server.stop()
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match="Connection refused"):
            made.publish(message("down"))
        with pytest.raises(ConnectionLost, match="left alone after 1 failures"):
            made.publish(message("down"))
        assert time.monotonic() - started < LATE_S
        server.start()
        until(lambda: published(made, "down"), what="the next try")
        assert taken(server, "down") == 1


@pytest.mark.parametrize("timeout_s", [0.05, 0.5])
@pytest.mark.parametrize("used_before", [False, True])
def test_a_frozen_nsqd_fails_within_the_deadline(
    two: tuple[Nsqd, Nsqd], transport: str, used_before: bool, timeout_s: float
) -> None:
    server, _ = two
    made = publisher(server, transport=transport, timeout_s=timeout_s)
    if used_before:
        made.publish(message("frozen"))
    server.freeze()
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match=r"no answer in time|timed out"):
        made.publish(message("frozen", b"x" * 900_000))
    assert time.monotonic() - started < timeout_s + LATE_S


def test_a_late_ok_is_not_taken_for_that_of_another_message(two: tuple[Nsqd, Nsqd]) -> None:
    """The connection on which the OK comes too late is gone by then, also when it had replaced another."""
    server, _ = two
    made = publisher(server, timeout_s=0.1)
    made.publish(message("late"))
    server.stop()
    server.start()
    server.freeze()
    with pytest.raises(ConnectionLost):
        made.publish(message("late", b"[1]"))
    assert made._nsqds[0].way._socket is None  # type: ignore[attr-defined]
    server.thaw()
    until(lambda: published(made, "late"), what="the next try")


def test_who_takes_the_bytes_and_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        made = Publisher(settings(nsqd_tcp_address=f"{LOOPBACK}:{listener.getsockname()[1]}", publish_timeout="0.1"))
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match="no answer in time"):
            made.publish(message("t"))
        assert time.monotonic() - started < 0.1 + LATE_S


@pytest.mark.parametrize("interval_s", [0.02, 0.0002])
def test_who_speaks_drop_by_drop_is_given_up_in_time(interval_s: float) -> None:
    """Each byte is in time, the whole, a frame of a million bytes, is not; and there is always one more byte."""
    over = threading.Event()
    with socket.create_server((LOOPBACK, 0)) as listener:

        def drip() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.send(b"\0\x0f\0\0")
                while not over.wait(interval_s):
                    try:
                        accepted.send(b"\0")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        made = Publisher(settings(nsqd_tcp_address=f"{LOOPBACK}:{listener.getsockname()[1]}", publish_timeout="0.3"))
        started = time.monotonic()
        with pytest.raises(ConnectionLost):
            made.publish(message("t"))
        assert time.monotonic() - started < 0.3 + LATE_S
        over.set()
        thread.join()


# Two nsqd


def test_with_one_dead_the_other_takes_all(two: tuple[Nsqd, Nsqd], transport: str) -> None:
    first, second = two
    made = publisher(first, second, transport=transport)
    made.publish(message("t"))
    first.kill()
    for _ in range(50):
        made.publish(message("t"))
    assert taken(second, "t") == 50


def test_with_one_frozen_the_message_arrives_within_the_deadline_and_then_at_once(
    two: tuple[Nsqd, Nsqd], transport: str
) -> None:
    first, second = two
    timeout_s = 0.4
    made = publisher(first, second, transport=transport, timeout_s=timeout_s)
    made.publish(message("t"))
    first.freeze()
    started = time.monotonic()
    made.publish(message("t"))
    assert time.monotonic() - started < timeout_s
    started = time.monotonic()
    made.publish(message("t"))
    assert time.monotonic() - started < 0.09, "it is left alone for a tenth of a second"
    assert taken(second, "t") == 2


def test_the_first_is_used_again_when_it_is_back(two: tuple[Nsqd, Nsqd], transport: str) -> None:
    first, second = two
    made = publisher(first, second, transport=transport)
    first.stop()
    made.publish(message("t"))
    first.start()
    until(lambda: published(made, "t") and taken(first, "t"), what="a message for the first")
    before = taken(second, "t")
    made.publish(message("t"))
    assert taken(second, "t") == before


def test_with_both_dead_each_is_named(two: tuple[Nsqd, Nsqd], transport: str) -> None:
    for server in two:
        server.stop()
    with pytest.raises(ConnectionLost) as caught:
        publisher(*two, transport=transport).publish(message("t"))
    for server in two:
        assert (server.http_address if transport == "http" else server.tcp_address) in str(caught.value)


# Names


@pytest.fixture
def hanging_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every look-up of a name hang until the test is over; addresses are none."""
    over = threading.Event()
    real = socket.getaddrinfo

    def hang(host: str, *arguments: Any, **options: Any) -> Any:
        if host != LOOPBACK and not options["flags"]:
            over.wait()
        return real(host, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", hang)
        yield
        over.set()
        until(lambda: not [each for each in threading.enumerate() if each.name == "name look-up"], what="the end")


@pytest.mark.usefixtures("hanging_names")
def test_a_resolver_that_hangs_is_given_up_in_time(transport: str) -> None:
    made = Publisher(
        settings(nsqd_tcp_address="a:4150", nsqd_address="a:4151", publish_transport=transport, publish_timeout="0.3")
    )
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"does not resolve in time|left alone"):
            made.publish(message("names"))
        assert time.monotonic() - started < 0.3 + LATE_S


@pytest.mark.usefixtures("hanging_names")
def test_a_name_that_hangs_leaves_time_for_the_other_nsqd(nsqd: Nsqd) -> None:
    made = Publisher(settings(nsqd_tcp_address=f"a:4150,{nsqd.tcp_address}", publish_timeout="0.4"))
    started = time.monotonic()
    made.publish(message("names-other"))
    assert time.monotonic() - started < 0.4 + LATE_S
    assert taken(nsqd, "names-other") == 1
