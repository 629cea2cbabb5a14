# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries over a real nsqd: a consumer with its reply desk, one who asks, and one who answers, each in a thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, NsqdRefused, NsqError, PayloadError, QueryFailed
from kemi_nsq.event import Event
from kemi_nsq.host import Suspended
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.queries import asker as asker_module
from kemi_nsq.queries import postbox
from kemi_nsq.queries.asker import Asker
from kemi_nsq.queries.desk import desk_name
from kemi_nsq.queries.postbox import Postbox
from kemi_nsq.runtime.place import SOCKET, Place
from kemi_nsq.settings import Settings
from kemi_nsq.tools.responder import ask
from tests.support.consuming import Consuming
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.places import new_place
from tests.support.responding import Request, Responding, reply_to
from tests.support.settings import settings
from tests.support.until import until

#: A publisher and an asker keep what they opened as long as their process lives, so they have no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TOPIC = "where"
#: How late a call may end on a busy machine.
LATE_S = 0.1
MB = 1_000_000


@pytest.fixture(scope="module")
def nsqd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsqd]:
    with Nsqd(tmp_path_factory.mktemp("nsqd"), max_msg_size=8 * MB, max_body_size=9 * MB) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path / "run")


@pytest.fixture
def consuming(nsqd: Nsqd, place: Place) -> Iterator[Consuming]:
    with placed(Consuming(nsqd), place) as consuming:
        wait_connected(consuming, 2)
        yield consuming


def placed(consuming: Consuming, place: Place) -> Consuming:
    """Give a consumer its runtime folder, before it runs."""
    consuming.host.place = place
    return consuming


def wait_connected(consuming: Consuming, count: int) -> None:
    until(lambda: consuming.host.counters[Counter.CONNECTED] >= count, what="the topic and the reply topic")


def values(*servers: Nsqd, **more: str) -> Settings:
    return settings(nsqd_tcp_address=",".join(server.tcp_address for server in servers), **more)


@pytest.fixture
def asker(nsqd: Nsqd, place: Place) -> Asker:
    return new_asker(values(nsqd), place)


def new_asker(settings: Settings, place: Place) -> Asker:
    return Asker(settings, Publisher(settings), place, lambda: None)


def fields(request: Request) -> Request:
    return {"asked": request.get("n")}


def failure(call: Callable[[], object], error: type[NsqError] = QueryFailed) -> tuple[str, float]:
    """Return what a failing query says and the seconds that it took."""
    started = time.monotonic()
    with pytest.raises(error) as caught:
        call()
    return str(caught.value), time.monotonic() - started


# A reply


def test_a_query_gets_its_reply(nsqd: Nsqd, consuming: Consuming, asker: Asker, place: Place) -> None:
    with Responding(nsqd, TOPIC, fields) as responding:
        for number in range(3):
            reply = json.loads(asker.ask(TOPIC, json.dumps({"n": number}), 5))
            (request,) = responding.requests[number:]
            assert reply == {"asked": number, "Msg-ID": request["Msg-ID"]}
    assert request == {
        "n": 2,
        "Msg-ID": request["Msg-ID"],
        "Server-ID": f"kamailio-0.localhost.{place.instance}.replies#ephemeral",
        "Node": "localhost",
        "App-Name": "kemi-nsq",
        "App-Version": request["App-Version"],
    }
    assert len({request["Msg-ID"] for request in responding.requests}) == 3
    assert consuming.host.counters[Counter.REPLY_DROPPED] == 0
    assert consuming.events == []


def test_server_id_is_always_ours_and_msg_id_the_callers(nsqd: Nsqd, consuming: Consuming, asker: Asker) -> None:
    with Responding(nsqd, TOPIC, fields) as responding:
        asker.ask(TOPIC, {"Msg-ID": "mine", "Server-ID": "elsewhere", "Node": "other"}, 5)
    (request,) = responding.requests
    assert (request["Msg-ID"], request["Node"]) == ("mine", "other")
    assert request["Server-ID"].startswith("kamailio-0.")


@pytest.mark.parametrize("size", [1_000, 30_000, 32_768, 40_000, 100_000, 900_000])
def test_a_reply_of_any_size_arrives(nsqd: Nsqd, consuming: Consuming, asker: Asker, size: int) -> None:
    with Responding(nsqd, TOPIC, lambda _request: {"text": "é" * (size // 2)}):
        reply = asker.ask(TOPIC, {}, 5)
    assert json.loads(reply)["text"] == "é" * (size // 2)


def test_the_reply_may_come_through_another_nsqd_of_the_cluster(tmp_path: Path, place: Place) -> None:
    with ExitStack() as stack:
        lookupd = stack.enter_context(Nsqlookupd(tmp_path / "lookupd"))
        ours, theirs = (
            stack.enter_context(Nsqd(tmp_path / name, lookupd_tcp_address=lookupd.tcp_address))
            for name in ("ours", "theirs")
        )
        for server in (ours, theirs):
            server.create_topic("kamailio")
        until(lambda: len(lookupd.producers("kamailio")) == 2, what="both nsqd to be known")
        consuming = stack.enter_context(placed(Consuming(lookupd_address=lookupd.http_address), place))
        wait_connected(consuming, 4)

        def answer(request: Request) -> None:
            responding.reply(request, reply_to(request, by="theirs"), through=theirs)

        responding = stack.enter_context(Responding(ours, TOPIC, answer))
        reply = new_asker(values(ours), place).ask(TOPIC, {}, 5)
        assert json.loads(reply)["by"] == "theirs"


def test_a_query_inside_an_event_route_does_not_starve_itself(nsqd: Nsqd, asker: Asker, place: Place) -> None:
    """The only consumer waits for a reply that comes through itself."""
    replies: list[str] = []

    def handle(event: Event) -> None:
        replies.append(asker.ask(TOPIC, event.fields, 5))

    inside = placed(Consuming(nsqd, handle, consumers="1", topic_channel="inside:c"), place)
    with Responding(nsqd, TOPIC, fields), inside:
        wait_connected(inside, 2)
        for number in range(10):
            nsqd.publish("inside", json.dumps({"n": number}).encode())
        until(lambda: len(replies) == 10, what="all replies")
        assert inside.host.counters[Counter.ROUTE_FAILED] == 0
    assert sorted(json.loads(reply)["asked"] for reply in replies) == list(range(10))


def test_two_hundred_at_once_each_get_their_own(
    nsqd: Nsqd, consuming: Consuming, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process asks one question at a time; here threads stand for processes, and hold up the consumer's by their lock.
    monkeypatch.setattr(postbox, "_FULL_TIMEOUT_S", 10.0)
    monkeypatch.setattr(asker_module, "_own_name", lambda: f"{threading.get_ident()}{SOCKET}")
    replies: dict[int, str] = {}
    held: list[Request] = []
    start = threading.Barrier(200)

    def answer(request: Request) -> None:
        """Hold the first half back, and answer it in reverse order."""
        held.append(request)
        if len(held) >= 100:
            while held:
                last = held.pop()
                responding.reply(last, reply_to(last, asked=last["n"]))

    def query(number: int) -> None:
        mine = new_asker(values(nsqd, publish_timeout="10"), place)
        start.wait()
        replies[number] = mine.ask(TOPIC, {"n": number}, 30)

    with Responding(nsqd, TOPIC, answer) as responding:
        threads = [threading.Thread(target=query, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {number: json.loads(reply)["asked"] for number, reply in replies.items()} == {n: n for n in range(200)}
    assert consuming.host.counters[Counter.REPLY_DROPPED] == 0


# No reply, or none that can be used


@pytest.mark.parametrize("timeout_s", [0.05, 0.4])
def test_without_a_reply_it_ends_on_time(consuming: Consuming, asker: Asker, timeout_s: float) -> None:
    said, took_s = failure(lambda: asker.ask("nobody-listens", {}, timeout_s))
    assert said == "timeout"
    assert timeout_s <= took_s + 0.001 < timeout_s + LATE_S


def test_a_late_reply_is_dropped_and_counted(nsqd: Nsqd, consuming: Consuming, place: Place) -> None:
    letters: list[None] = []
    asker = Asker(values(nsqd), Publisher(values(nsqd)), place, lambda: letters.append(None))
    with Responding(nsqd, TOPIC, lambda _request: None) as responding:
        assert failure(lambda: asker.ask(TOPIC, {"n": 1}, 0.1))[0] == "timeout"
        (late,) = until(lambda: responding.requests, what="the request")
        # What comes before the desk has looked at its clock is a letter that nobody waits for.
        until(lambda: consuming.parts.supervisor._io._desk.next_deadline() is None, what="the end of the query")
        responding.reply(late, reply_to(late, asked=1))
    with Responding(nsqd, TOPIC, fields):
        assert json.loads(asker.ask(TOPIC, {"n": 2}, 5))["asked"] == 2
    # The asker counts it where the desk handed it over just as its time was up.
    until(lambda: consuming.host.counters[Counter.REPLY_DROPPED] + len(letters) == 1, what="the late reply")
    assert consuming.events == []


def test_only_the_first_of_two_replies_counts(nsqd: Nsqd, consuming: Consuming, asker: Asker) -> None:
    def answer(request: Request) -> None:
        for number in (1, 2):
            responding.reply(request, reply_to(request, number=number))

    with Responding(nsqd, TOPIC, answer) as responding:
        for count in (1, 2, 3):
            assert json.loads(asker.ask(TOPIC, {}, 5))["number"] == 1
            until(lambda n=count: consuming.host.counters[Counter.REPLY_DROPPED] == n, what="the second")  # type: ignore[misc]
    assert consuming.events == []


NO_REPLIES = {
    "foreign": b'{"Msg-ID": "somebody else\'s", "forged": true}',
    "no Msg-ID": b'{"a": 1}',
    "null": b'{"Msg-ID": null}',
    "array": b"[]",
    "no JSON": b"hello",
    "not UTF-8": b'{"Msg-ID": "\xff"}',
    "NUL": b"\0",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", NO_REPLIES.values(), ids=NO_REPLIES)
def test_what_is_no_reply_is_dropped_and_the_query_waits_on(
    nsqd: Nsqd, consuming: Consuming, asker: Asker, body: bytes
) -> None:
    def answer(request: Request) -> Request:
        responding.reply(request, body)
        until(lambda: consuming.host.counters[Counter.REPLY_DROPPED] == 1, what="the first to be dropped")
        return {"n": "right"}

    with Responding(nsqd, TOPIC, answer) as responding:
        assert json.loads(asker.ask(TOPIC, {}, 5))["n"] == "right"
    assert consuming.events == []
    assert consuming.host.counters[Counter.RESTARTED] == 0


@pytest.mark.parametrize("size", [2_000, 5 * MB])
def test_a_reply_that_is_too_large_fails_the_query_at_once(nsqd: Nsqd, asker: Asker, place: Place, size: int) -> None:
    with placed(Consuming(nsqd, max_reply_size="1999"), place) as consuming:
        wait_connected(consuming, 2)
        with Responding(nsqd, TOPIC, lambda _request: None) as responding:
            responding.answer_request = lambda request: responding.reply(request, reply_to(request, text="x" * size))
            said, took_s = failure(lambda: asker.ask(TOPIC, {}, 5))
        assert said == "bad reply"
        assert took_s < 2
        until(lambda: any("NSQ_MAX_REPLY_SIZE allows 1999" in line for line in consuming.lines), what="the line")
        assert consuming.host.counters[Counter.REPLY_DROPPED] == 1
        assert consuming.host.counters[Counter.DISCONNECTED] == 0


def test_without_a_consumer_it_fails_at_once(asker: Asker) -> None:
    said, took_s = failure(lambda: asker.ask(TOPIC, {}, 5))
    assert said == "no consumer"
    assert took_s < LATE_S


def test_without_a_nsqd_it_fails_at_once(consuming: Consuming, tmp_path: Path, place: Place) -> None:
    with Nsqd(tmp_path) as gone:
        asker = new_asker(values(gone), place)
    said, took_s = failure(lambda: asker.ask(TOPIC, {}, 5), ConnectionLost)
    assert "Connection refused" in said
    assert took_s < LATE_S


@pytest.mark.parametrize("timeout_s", [0.05, 0.2])
def test_a_frozen_nsqd_costs_no_more_than_the_timeout(
    consuming: Consuming, tmp_path: Path, place: Place, timeout_s: float
) -> None:
    with Nsqd(tmp_path) as frozen:
        asker = new_asker(values(frozen, publish_timeout="2"), place)
        frozen.freeze()
        _, took_s = failure(lambda: asker.ask(TOPIC, {}, timeout_s), ConnectionLost)
        assert took_s < timeout_s + LATE_S


@pytest.mark.parametrize("payload", ["", "[]", "hello", {"a": object()}, {"Msg-ID": "x" * 256}])
def test_a_request_that_cannot_be_one_never_leaves(consuming: Consuming, asker: Asker, payload: str) -> None:
    failure(lambda: asker.ask(TOPIC, payload, 5), PayloadError)


def test_a_request_that_nsqd_refuses_is_named(consuming: Consuming, asker: Asker) -> None:
    said, _ = failure(lambda: asker.ask(TOPIC, {"text": "x" * 8 * MB}, 5), NsqdRefused)
    assert "PUB message too big" in said


# The same Msg-ID again


def test_who_timed_out_may_ask_again_with_the_same_msg_id(nsqd: Nsqd, consuming: Consuming, asker: Asker) -> None:
    for _ in range(5):
        assert failure(lambda: asker.ask("nobody-listens", {"Msg-ID": "mine"}, 0.02))[0] == "timeout"
    with Responding(nsqd, TOPIC, fields):
        assert json.loads(asker.ask(TOPIC, {"Msg-ID": "mine", "n": 1}, 5)) == {"Msg-ID": "mine", "asked": 1}


def test_who_found_no_nsqd_may_ask_again_with_the_same_msg_id(nsqd: Nsqd, consuming: Consuming, asker: Asker) -> None:
    publisher = asker._publisher
    asker._publisher = Publisher(settings(nsqd_tcp_address="127.0.0.1:1"))
    for _ in range(30):  # more than a postbox holds
        failure(lambda: asker.ask(TOPIC, {"Msg-ID": "mine"}, 5), ConnectionLost)
    asker._publisher = publisher
    with Responding(nsqd, TOPIC, fields):
        assert json.loads(asker.ask(TOPIC, {"Msg-ID": "mine", "n": 1}, 5))["asked"] == 1


def test_a_msg_id_that_waits_for_somebody_else_is_refused(
    nsqd: Nsqd, consuming: Consuming, asker: Asker, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Responding(nsqd, TOPIC, lambda _request: None) as responding:
        other = threading.Thread(target=failure, args=(lambda: asker.ask(TOPIC, {"Msg-ID": "mine"}, 1),))
        other.start()
        until(lambda: responding.requests, what="the first request")
        monkeypatch.setattr(asker_module, "_own_name", lambda: f"another{SOCKET}")
        said, took_s = failure(lambda: new_asker(values(nsqd), place).ask(TOPIC, {"Msg-ID": "mine"}, 5))
        other.join()
    assert said == "bad payload"
    assert took_s < LATE_S


# Without waiting


SUSPENDED = Suspended(index=7, label=0xFFFFFFFF, route="ANSWERED")


def test_a_suspended_transaction_is_resumed_once_with_the_reply(nsqd: Nsqd, consuming: Consuming, asker: Asker) -> None:
    consuming.host.transaction = (SUSPENDED.index, SUSPENDED.label)

    def answer(request: Request) -> None:
        for number in (1, 2):
            responding.reply(request, reply_to(request, number=number))

    with Responding(nsqd, TOPIC, answer) as responding:
        assert asker.ask_later(asker.prepare(TOPIC, {}, 0.5), SUSPENDED)
        until(lambda: consuming.host.counters[Counter.REPLY_DROPPED] == 1, what="the second reply to be dropped")
        until(lambda: consuming.host.continued, what="the transaction to go on")
    ((suspended, variables),) = consuming.host.continued
    assert suspended == SUSPENDED
    assert json.loads(variables["nqR"])["number"] == 1
    assert variables["nqErr"] == ""
    assert consuming.host.counters[Counter.RESUME_FAILED] == 0


def test_a_suspended_transaction_is_resumed_at_its_deadline(nsqd: Nsqd, consuming: Consuming, asker: Asker) -> None:
    with Responding(nsqd, TOPIC, lambda _request: None) as responding:
        started = time.monotonic()
        assert asker.ask_later(asker.prepare(TOPIC, {}, 0.3), SUSPENDED)
        until(lambda: consuming.host.continued, what="the transaction to go on")
        assert 0.3 <= time.monotonic() - started + 0.001 < 0.3 + LATE_S
        (late,) = until(lambda: responding.requests, what="the request")
        responding.reply(late, reply_to(late))
        until(lambda: consuming.host.counters[Counter.REPLY_DROPPED] == 1, what="the late reply to be dropped")
    ((_, variables),) = consuming.host.continued
    assert variables == {"nqR": "", "nqErr": "timeout"}
    assert consuming.host.counters[Counter.RESUME_FAILED] == 1, "the fake host has no such transaction"


@pytest.mark.parametrize(("body_size", "reason"), [(0, "no nsqd"), (9 * MB, "bad payload")])
def test_a_suspended_transaction_is_resumed_when_its_request_does_not_leave(
    nsqd: Nsqd, consuming: Consuming, asker: Asker, body_size: int, reason: str
) -> None:
    if not body_size:
        asker._publisher = Publisher(settings(nsqd_tcp_address="127.0.0.1:1"))
    assert not asker.ask_later(asker.prepare(TOPIC, {"text": "x" * body_size}, 60), SUSPENDED)
    until(lambda: consuming.host.continued, what="the transaction to go on")
    assert consuming.host.continued[0][1] == {"nqR": "", "nqErr": reason}


def test_what_cannot_be_asked_is_told_before_anything_is_suspended(consuming: Consuming, asker: Asker) -> None:
    failure(lambda: asker.prepare(TOPIC, {"a": object()}, 1), PayloadError)  # type: ignore[dict-item]
    consuming._consumer.stop()
    consuming._thread.join()
    assert failure(lambda: asker.prepare(TOPIC, {}, 1))[0] == "no consumer"


def test_a_consumer_that_takes_no_letters_is_told_in_a_tenth_of_a_second(asker: Asker, place: Place) -> None:
    busy = Postbox(place, desk_name(0), print)
    busy.open()
    try:
        query = asker.prepare(TOPIC, {}, 5)
        for _ in range(100):
            said, took_s = "", 0.0
            try:
                asker.prepare(TOPIC, {}, 5)
            except QueryFailed:
                break
        said, took_s = failure(lambda: asker.ask_later(query, SUSPENDED))
        assert said == "no consumer"
        assert took_s < 0.1 + LATE_S
    finally:
        busy.close()


def test_a_letter_that_says_nothing_known_ends_nothing(
    nsqd: Nsqd, consuming: Consuming, asker: Asker, place: Place
) -> None:
    """An older or newer version of the package may run in another process, for a moment."""
    sender = Postbox(place, f"another{SOCKET}", print)
    for letter in (b"hello", b"[]", b'{"failed": "timeout"}', b'{"msg_id": 1}', orjson.dumps({"deadline": None})):
        sender.send(desk_name(0), letter, wait=True)
    sender.close()
    with Responding(nsqd, TOPIC, fields):
        assert json.loads(asker.ask(TOPIC, {"n": 1}, 5))["asked"] == 1
    assert consuming.host.counters[Counter.RESTARTED] == 0, consuming.lines


# From the command line


def test_the_command_line_asks_without_a_consumer(nsqd: Nsqd) -> None:
    with Responding(nsqd, TOPIC, fields) as responding:
        assert json.loads(ask(values(nsqd), TOPIC, '{"n": 5}', timeout_s=5))["asked"] == 5
    assert responding.requests[0]["App-Version"] == "cli"


def test_the_command_line_says_what_is_wrong_with_a_reply(nsqd: Nsqd) -> None:
    with Responding(nsqd, TOPIC, lambda request: responding.reply(request, b"hello")) as responding:
        said, _ = failure(lambda: ask(values(nsqd), TOPIC, "{}", timeout_s=5))
    assert said.startswith("bad reply: the body is not JSON")


BAD_REQUESTS = [
    b"hello",
    b"[]",
    b"\xff",
    b"{}",
    b'{"Msg-ID": "a"}',
    b'{"Msg-ID": "a", "Server-ID": "b c"}',
    b'{"Msg-ID": "a", "Server-ID": "t\\nPUB x"}',
    b'{"Msg-ID": "a", "Server-ID": {"b": 1}}',
]


def test_a_responder_outlives_requests_that_make_no_sense(nsqd: Nsqd, consuming: Consuming, asker: Asker) -> None:
    with Responding(nsqd, TOPIC, fields) as responding:
        for body in BAD_REQUESTS:
            nsqd.publish(TOPIC, body)
        assert json.loads(asker.ask(TOPIC, {"n": 1}, 5))["asked"] == 1
    assert sum(line.startswith("not answered: ") for line in responding.said) >= len(BAD_REQUESTS)
