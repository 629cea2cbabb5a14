# SPDX-License-Identifier: GPL-2.0-or-later
"""Workers and the relay over real sockets in a runtime folder; nsqd is a double."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from kemi_nsq import restarts
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.host import Level
from kemi_nsq.relay import backlog as backlog_module
from kemi_nsq.relay.backlog import Room
from kemi_nsq.relay.handover import NAME, Handover
from kemi_nsq.relay.process import Relay
from kemi_nsq.runtime.page import RELAY, Fact, Gauge, read
from kemi_nsq.runtime.place import Place
from kemi_nsq.testing import FakeHost
from tests.support.doubles import FakeOutbox, FakePublisher
from tests.support.places import NOBODY, new_place, run_as
from tests.support.running import running
from tests.support.settings import settings
from tests.support.until import until

PATIENCE_S = 5.0
IMPATIENT_S = 0.05
LARGEST = 2_000_000
AWAY = ConnectionLost("nsqd is away")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path / "run")


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def host(place: Place) -> FakeHost:
    made = FakeHost()
    made.place = place
    return made


def made(host: FakeHost, publisher: FakePublisher, outbox: FakeOutbox | None = None) -> Relay:
    return Relay(settings(max_message_size=str(LARGEST)), host, publisher, outbox)


@pytest.fixture
def relay(host: FakeHost, publisher: FakePublisher) -> Iterator[Relay]:
    relay = made(host, publisher)
    with running(relay):
        yield relay


@contextmanager
def worker(place: Place | None, patience_s: float = PATIENCE_S) -> Iterator[Handover]:
    with closing(Handover(place, patience_s)) as handover:
        yield handover


def sent(publisher: FakePublisher) -> list[bytes]:
    return [message.body for message in publisher.sent]


def test_what_workers_hand_over_is_published_in_the_order_of_each(
    relay: Relay, host: FakeHost, place: Place, publisher: FakePublisher
) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(place)) for _ in range(3)]
        for number in range(100):
            for name, each in enumerate(workers):
                each.put("t", b"%d %d" % (name, number))
        until(lambda: len(publisher.sent) == 300, what="all messages")
    for name in range(3):
        of_one = [body for body in sent(publisher) if body.startswith(b"%d " % name)]
        assert of_one == [b"%d %d" % (name, number) for number in range(100)]
    until(lambda: host.counters[Counter.PUBLISHED] == 300, what="the counter")
    assert host.counters[Counter.QUEUED] == 300
    sheet = read(bytes(host.page.memory))
    assert sheet is not None
    assert sheet.role == RELAY


def test_a_message_that_is_larger_than_any_buffer_passes(relay: Relay, place: Place, publisher: FakePublisher) -> None:
    large = b"x" * LARGEST
    with worker(place) as one:
        one.put("t", large)
        one.put("t", b"after it")
        until(lambda: len(publisher.sent) == 2, what="both")
    assert sent(publisher) == [large, b"after it"]


def test_a_worker_that_calls_before_the_relay_runs_waits_for_it(
    host: FakeHost, place: Place, publisher: FakePublisher
) -> None:
    with worker(place) as one:
        early = threading.Thread(target=one.put, args=("t", b"early"))
        early.start()
        with running(made(host, publisher)):
            early.join(10)
            until(lambda: sent(publisher) == [b"early"], what="it")


@pytest.mark.parametrize("with_folder", [True, False])
def test_without_a_relay_the_call_fails(place: Place, *, with_folder: bool) -> None:
    with worker(place if with_folder else None, IMPATIENT_S) as one:
        for _ in range(2):
            with pytest.raises(ConnectionLost, match=r"no relay runs: nsq\.cfg starts it"):
                one.put("t", b"1")


def test_a_worker_waits_once_for_a_relay_that_is_not_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each SIP request would take that long, or else."""
    waits: list[float] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    with worker(place) as one:
        for _ in range(5):
            with pytest.raises(ConnectionLost):
                one.put("t", b"1")
        assert sum(waits) == pytest.approx(PATIENCE_S, abs=0.1)


def test_a_full_relay_refuses_and_takes_all_that_it_took_in_order(
    host: FakeHost, place: Place, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nsqd is away: memory is bounded, and what was said to be taken is there when it is back."""
    relay = made(host, publisher)
    monkeypatch.setattr(relay._backlog, "_room", Room(messages=100))
    publisher.failure = AWAY
    taken = []
    with running(relay), worker(place, 1.0) as one:  # a relay that reads takes more than once a second
        bodies = (b"%d" % number + b" " * 1000 for number in range(100_000))
        with suppress(ConnectionLost):
            for body in bodies:
                one.put("t", body)
                taken.append(body)
        with pytest.raises(ConnectionLost, match="the relay takes no more"):
            one.put("t", next(bodies))
        until(lambda: host.page.shown(Fact.RELAY), what="the fact")
        publisher.failure = None
        until(lambda: len(publisher.sent) == len(taken), what="all that it took")
        one.put("t", b"again")
        until(lambda: len(publisher.sent) == len(taken) + 1, what="one more")
    assert sent(publisher) == [*taken, b"again"]
    assert not host.page.shown(Fact.RELAY)


def test_one_that_hands_over_nonsense_is_not_heard_any_more(
    relay: Relay, host: FakeHost, place: Place, publisher: FakePublisher
) -> None:
    with worker(place) as bad, worker(place) as good:
        bad.put("t", b"1")
        assert bad._socket is not None
        bad._socket.sendall(b"\x01t\xff\xff\xff\xff")
        until(lambda: host.lines, what="the line")
        good.put("t", b"2")
        bad.put("t", b"3")  # over a new connection
        until(lambda: len(publisher.sent) == 3, what="the others")
    ((level, line),) = host.lines
    assert level is Level.ERROR
    assert "hands over what is no message, and is not heard any more" in line


def test_a_child_of_a_worker_has_a_connection_of_its_own(relay: Relay, place: Place, publisher: FakePublisher) -> None:
    with worker(place) as one:
        one.put("t", b"parent")
        child = os.fork()
        if not child:
            try:
                one.put("t", b"child")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        one.put("t", b"parent again")
        until(lambda: len(publisher.sent) == 3, what="all")
    assert sorted(sent(publisher)) == [b"child", b"parent", b"parent again"]


def test_a_socket_that_somebody_removes_is_made_again(relay: Relay, place: Place, publisher: FakePublisher) -> None:
    with worker(place) as old, worker(place) as new:
        old.put("t", b"1")
        until(lambda: sent(publisher), what="the first")
        (place.path / NAME).unlink()
        old.put("t", b"2")
        new.put("t", b"3")
        until(lambda: len(publisher.sent) == 3, what="all")


def test_another_user_is_not_heard(relay: Relay, place: Place) -> None:
    until((place.path / NAME).exists, what="the socket")
    place.path.chmod(0o711)  # as nobody should
    (place.path / NAME).chmod(0o777)
    said = run_as(
        NOBODY,
        """
        import socket, sys
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            try:
                peer.connect(sys.argv[1])
                print(peer.recv(1))
            except OSError as error:
                print(error.strerror)
        """,
        str(place.path / NAME),
    )
    assert said.strip() in {"b''", "Connection reset by peer", "Permission denied"}


# The end


def test_what_a_socket_has_at_the_end_is_sent(host: FakeHost, place: Place, publisher: FakePublisher) -> None:
    with worker(place) as one:
        with running(made(host, publisher)):
            for number in range(500):
                one.put("t", b"%d" % number)
        assert sent(publisher) == [b"%d" % number for number in range(500)]


def test_at_the_end_the_outbox_keeps_what_nsqd_does_not_take(
    host: FakeHost, place: Place, publisher: FakePublisher
) -> None:
    publisher.failure, outbox = AWAY, FakeOutbox()
    with worker(place) as one:
        with running(made(host, publisher, outbox)):
            for number in range(500):
                one.put("t", b"%d" % number)
        assert [message.body for message in outbox.kept] == [b"%d" % number for number in range(500)]


def test_what_is_lost_at_the_end_is_told(host: FakeHost, place: Place, publisher: FakePublisher) -> None:
    publisher.failure = AWAY
    with running(made(host, publisher)), worker(place) as one:
        one.put("t", b"1")
    assert host.counters[Counter.PUBLISH_FAILED] == 1
    assert "1 messages of the relay are lost: it ends, and nobody took them" in [line for _, line in host.lines]


def test_what_the_sockets_hold_at_the_end_of_a_full_relay_is_told(
    host: FakeHost, place: Place, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = made(host, publisher)
    monkeypatch.setattr(relay._backlog, "_room", Room(messages=100))
    publisher.failure, taken = AWAY, 0
    with running(relay), worker(place, IMPATIENT_S) as one, suppress(ConnectionLost):
        for number in range(100_000):
            one.put("t", b"%d" % number + b" " * 1000)
            taken += 1
    assert taken > 100
    assert host.counters[Counter.QUEUED] == host.counters[Counter.PUBLISH_FAILED] == taken
    assert f"{taken} messages of the relay are lost: it ends, and nobody took them" in [line for _, line in host.lines]


def test_an_end_that_fails_says_what_is_lost(
    host: FakeHost, place: Place, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = made(host, publisher)
    publisher.failure = AWAY

    def fails(_gathering: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(relay, "_flush", fails)
    with running(relay), worker(place) as one:
        one.put("t", b"1")
        until(lambda: host.page.shown(Fact.RELAY), what="it to be held")
    assert host.counters[Counter.PUBLISH_FAILED] == host.counters[Counter.BUG] == 1


def test_an_end_while_a_failed_loop_rests_sends_what_there_is(
    host: FakeHost, place: Place, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "retry_delay_s", lambda *_: 600.0)
    publisher.failure = RuntimeError("a bug")
    with worker(place) as one:
        with running(made(host, publisher)):
            one.put("t", b"1")
            until(lambda: host.counters[Counter.RESTARTED], what="the failure")
            publisher.failure = None
        assert sent(publisher) == [b"1"]


# Messages that are larger than what the kernel takes at once


def test_large_messages_for_a_full_relay_keep_their_order_and_make_nobody_wait_twice(
    host: FakeHost, place: Place, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = made(host, publisher)
    monkeypatch.setattr(relay._backlog, "_room", Room(messages=20))
    publisher.failure = AWAY
    taken, refused_s = [], list[float]()
    with running(relay), worker(place, IMPATIENT_S) as one:
        for number in range(400):
            body = b"%04d" % number + b" " * 50_000
            started = time.monotonic()
            try:
                one.put("t", body)
                taken.append(body)
            except ConnectionLost:
                refused_s.append(time.monotonic() - started)
        assert 20 < len(taken) < 100, "its buffer and that of one socket"
        assert sum(refused_s) < 10 * IMPATIENT_S, "a call waits once"
        publisher.failure = None
        until(lambda: len(publisher.sent) >= len(taken) - 1, what="all but what may have begun")
        one.put("t", b"last")
        until(lambda: len(publisher.sent) == len(taken) + 1, what="all")
    assert sent(publisher) == [*taken, b"last"]


# A loop that fails


def test_a_loop_that_fails_begins_again_with_all_that_it_had(
    host: FakeHost, place: Place, publisher: FakePublisher
) -> None:
    publisher.failure = RuntimeError("a bug")
    with running(made(host, publisher)), worker(place) as one:
        one.put("t", b"1")
        until(lambda: host.counters[Counter.RESTARTED], what="the failure")
        one.put("t", b"2")
        publisher.failure = None
        until(lambda: len(publisher.sent) == 2, what="both")
    assert sent(publisher) == [b"1", b"2"]
    assert "the relay failed and starts again in" in host.lines[0][1]
    assert "RuntimeError: a bug" in host.lines[1][1]
    assert not host.page.shown(Fact.FAILED)


def test_gauges_say_what_it_holds(host: FakeHost, place: Place, publisher: FakePublisher) -> None:
    publisher.failure = AWAY
    with running(made(host, publisher)), worker(place) as one:
        one.put("t", b"12345")

        def gauges() -> tuple[float, float]:
            sheet = read(bytes(host.page.memory))
            assert sheet is not None
            return sheet.gauges[Gauge.RELAY_MESSAGES], sheet.gauges[Gauge.RELAY_BYTES]

        until(lambda: gauges() == (1, 9), what="one")
        publisher.failure = None
        until(lambda: gauges() == (0, 0), what="none")


def test_a_batch_is_smaller_than_what_nsqd_takes() -> None:
    assert backlog_module.BATCH_BYTES < 5 * 1024 * 1024
