# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of a message: what is answered to nsqd, counted and logged, whatever the message and its route do."""

from __future__ import annotations

import base64
import json
import math
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kemi_nsq.connection import Message
from kemi_nsq.counters import Counter
from kemi_nsq.deadletters import DeadLetters
from kemi_nsq.errors import ConnectionLost, NsqdRefused
from kemi_nsq.event import Event
from kemi_nsq.handling import EventHandling
from kemi_nsq.host import Level
from kemi_nsq.names import Subscription
from kemi_nsq.presentity import Order
from kemi_nsq.pua import PresencePublisher
from kemi_nsq.publisher import Outgoing, Publisher
from kemi_nsq.routes import Current, Handler, NativeRoutes, PythonRoutes, Router
from kemi_nsq.store import PresentityStore
from kemi_nsq.testing import FakeHost
from kemi_nsq.traffic import Delivery
from tests.support.presentity_table import create_presentity_table
from tests.support.settings import settings

FIN, REQ = "FIN", "REQ"
NAME = "nsq:consumer-event-presence-update"
EVENT = b'{"Event-Category": "presence", "Event-Name": "update"}'


@dataclass
class FakeAnswers:
    """Remembers what nsqd was answered: message id, FIN or REQ, delay."""

    given: list[tuple[str, str, int]] = field(default_factory=list)
    flushed: int = 0

    def begin(self, delivery: Delivery) -> bool:
        return True

    keep = begin

    def set_aside(self, delivery: Delivery) -> None:
        pass

    def finish(self, delivery: Delivery) -> None:
        self.given.append((delivery.message.message_id.decode(), FIN, 0))

    def requeue(self, delivery: Delivery, delay_ms: int) -> None:
        self.given.append((delivery.message.message_id.decode(), REQ, delay_ms))

    def flush(self) -> None:
        self.flushed = len(self.given)

    settle = flush


class FakePublisher(Publisher):
    """Remembers what was published, or raises what it was told to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(settings())
        self.published: list[Outgoing] = []
        self._error = error

    def publish(self, message: Outgoing, *, until: float = math.inf) -> None:
        if self._error is not None:
            raise self._error
        self.published.append(message)


class Desk:
    """An `EventHandling` with fakes around it."""

    def __init__(
        self,
        *,
        handlers: Mapping[str, Handler] | None = None,
        native: Mapping[str, Callable[[FakeHost, str], None]] | None = None,
        publisher: FakePublisher | None = None,
        store: PresentityStore | None = None,
        **values: str,
    ) -> None:
        self.host = FakeHost(event_routes=native)
        self.answers = FakeAnswers()
        self.publisher = publisher or FakePublisher()
        self.current = Current()
        chosen = settings(**values)
        self.pua = PresencePublisher(chosen, self.host, store)
        self.handling = EventHandling(
            settings=chosen,
            host=self.host,
            router=Router([PythonRoutes(handlers or {}, self.host), NativeRoutes(self.host)], self.current),
            current=self.current,
            pua=self.pua,
            dead_letters=DeadLetters(chosen, self.publisher),
        )

    def handle(self, *bodies: bytes, attempts: int = 1) -> list[tuple[str, str, int]]:
        """Handle messages that come together; return what was answered to each, numbered from 0."""
        deliveries = [delivery(body, number=number, attempts=attempts) for number, body in enumerate(bodies)]
        self.handling.handle(deliveries, self.answers)
        return self.answers.given

    @property
    def lines(self) -> list[str]:
        return [text for level, text in self.host.lines if level is not Level.DEBUG]


def delivery(body: bytes, *, number: int = 0, attempts: int = 1) -> Delivery:
    message = Message(
        message_id=b"%016d" % number, timestamp_ns=1_700_000_000_000_000_000, attempts=attempts, body=body
    )
    return Delivery(link_id=1, subscription=Subscription("events", "kamailio"), message=message)


def answer(number: int, kind: str, delay_ms: int = 0) -> tuple[str, str, int]:
    return f"{number:016}", kind, delay_ms


# One message


def test_an_event_is_decoded_routed_and_finished() -> None:
    seen: list[Event] = []
    desk = Desk(handlers={NAME: seen.append})
    assert desk.handle(EVENT, attempts=2) == [answer(0, FIN)]
    assert seen == [
        Event(
            topic="events",
            channel="kamailio",
            message_id="0000000000000000",
            timestamp_ns=1_700_000_000_000_000_000,
            attempts=2,
            payload=EVENT.decode(),
            fields={"Event-Category": "presence", "Event-Name": "update"},
        )
    ]
    assert desk.host.counters == {Counter.RECEIVED: 1}
    assert desk.host.lines == []


def test_the_fields_that_name_the_route_are_settings() -> None:
    seen: list[Event] = []
    desk = Desk(
        handlers={"nsq:consumer-event-mwi-full": seen.append}, consumer_event_key="Type", consumer_event_subkey="State"
    )
    assert desk.handle(b'{"Type": "MWI", "State": "full"}') == [answer(0, FIN)]
    assert len(seen) == 1


def test_the_route_runs_before_the_answer_or_after_it_as_ack_says() -> None:
    for ack, answered in (("processed", []), ("received", [answer(0, FIN)])):
        desk = Desk(ack=ack)
        seen: list[list[tuple[str, str, int]]] = []
        desk.host.event_routes[NAME] = lambda *_, desk=desk, seen=seen: seen.append(list(desk.answers.given))
        desk.handle(EVENT)
        assert seen == [answered]


BAD_BODIES = [b"", b" ", b"hello", b"[1]", b'"x"', b"null", b"17", b'{"a": "\xff"}', b"{'a': 1}", b'{"a": NaN}', b"\0"]


@pytest.mark.parametrize("ack", ["processed", "received"])
@pytest.mark.parametrize("body", [*BAD_BODIES, b'{"a": "' + b"x" * 70_000 + b'"}', b"[" * 60_000])
def test_a_body_that_cannot_be_used_is_finished_with_a_counter_and_one_line(body: bytes, ack: str) -> None:
    desk = Desk(ack=ack, native={"nsq:consumer-event": lambda *_: pytest.fail("it was routed")})
    assert set(desk.handle(body)) == {answer(0, FIN)}
    assert desk.host.counters == {Counter.RECEIVED: 1, Counter.INVALID: 1}
    (line,) = desk.lines
    assert line.startswith("events:kamailio message 0000000000000000 dropped: the body ")
    assert len(line) < 300


def test_no_route_is_counted_each_time_and_logged_once_for_each_name() -> None:
    desk = Desk()
    other = b'{"Event-Category": "other"}'
    for body in (EVENT, EVENT, other, EVENT, other):
        desk.handle(body)
    assert {kind for _, kind, _ in desk.answers.given} == {FIN}
    assert desk.host.counters[Counter.UNROUTED] == 5
    assert desk.lines == [
        f"no event_route for {NAME} from events:kamailio; such events are dropped",
        "no event_route for nsq:consumer-event-other from events:kamailio; such events are dropped",
    ]


def test_the_names_that_were_logged_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.handling._REMEMBERED_NAMES", 3)
    desk = Desk()
    for number in (0, 1, 2, 3, 3, 0):
        desk.handle(b'{"Event-Category": "x%d"}' % number)
    assert len(desk.lines) == 5, "the first was forgotten, so it is logged again"


@pytest.mark.parametrize("depth", [254, 1000])
def test_a_deeply_nested_field_that_names_the_route_is_no_trouble(depth: int) -> None:
    desk = Desk(handlers={"nsq:consumer-event": lambda _: None})
    assert desk.handle(b'{"Event-Category": ' + b"[" * depth + b"]" * depth + b"}") == [answer(0, FIN)]
    assert desk.host.counters == {Counter.RECEIVED: 1}


# Coming again


def failing(_event: Event) -> int:
    raise ValueError("the operator's mistake")


@pytest.mark.parametrize("handler", [lambda _: -1, failing], ids=["negative", "raises"])
def test_what_fails_comes_again_later_each_time(handler: Handler) -> None:
    desk = Desk(handlers={NAME: handler}, max_attempts="9")
    for attempts in range(1, 9):
        desk.handle(EVENT, attempts=attempts)
    delays = [delay_ms for _, kind, delay_ms in desk.answers.given if kind == REQ]
    assert delays == [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000]
    assert desk.host.counters[Counter.REQUEUED] == 8


def test_what_a_native_route_requeues_comes_again() -> None:
    desk = Desk(native={NAME: lambda host, _: host.set_variable("nqAck", "requeue")})
    assert desk.handle(EVENT) == [answer(0, REQ, 500)]


def test_with_ack_received_nothing_comes_again() -> None:
    desk = Desk(handlers={NAME: failing}, ack="received")
    assert desk.handle(EVENT) == [answer(0, FIN)]
    assert desk.host.counters == {Counter.RECEIVED: 1, Counter.ROUTE_FAILED: 1}


@pytest.mark.parametrize(("attempts", "kind"), [(2, REQ), (3, FIN), (4, FIN)])
def test_a_message_is_given_up_after_its_last_attempt(attempts: int, kind: str) -> None:
    desk = Desk(handlers={NAME: lambda _: -1}, max_attempts="3")
    assert desk.handle(EVENT, attempts=attempts)[0][1] == kind
    assert desk.host.counters[Counter.GAVE_UP] == (kind == FIN)
    assert [line.split(" dropped: ")[0] for line in desk.lines] == (
        ["events:kamailio message 0000000000000000"] if kind == FIN else []
    )


def test_a_message_that_ended_the_process_each_time_is_not_tried_for_ever() -> None:
    desk = Desk(handlers={NAME: lambda _: pytest.fail("it ran")}, max_attempts="3")
    assert desk.handle(EVENT, attempts=4) == [answer(0, FIN)]
    assert desk.host.counters == {Counter.RECEIVED: 1, Counter.GAVE_UP: 1}


def test_a_bug_of_ours_requeues_its_message_and_no_other() -> None:
    def broken(*_: object) -> None:
        raise IndexError("not of the operator's code")

    desk = Desk(native={"nsq:consumer-event-bad": broken, NAME: lambda *_: None})
    desk.handle(EVENT, b'{"Event-Category": "bad"}', EVENT)
    assert desk.answers.given == [answer(0, FIN), answer(1, REQ, 500), answer(2, FIN)]
    assert desk.host.counters[Counter.BUG] == 1
    (line,) = desk.lines
    assert line.startswith("message 0000000000000001: IndexError: ")


def test_an_exit_in_a_handler_requeues_its_message_and_no_other() -> None:
    def leave(_event: Event) -> None:
        raise SystemExit

    desk = Desk(handlers={NAME: leave, "nsq:consumer-event": lambda _: None})
    assert desk.handle(b"{}", EVENT) == [answer(0, FIN), answer(1, REQ, 500)]


# Dead letters


def test_a_dead_letter_says_what_came_and_why_it_went_no_further() -> None:
    desk = Desk(dead_letter_topic="dead", node="n1")
    assert desk.handle(b"hello", attempts=2) == [answer(0, FIN)]
    (letter,) = desk.publisher.published
    assert letter.topic == "dead"
    assert json.loads(letter.body) == {
        "Reason": "the body is not JSON: unexpected character, expected a JSON value at line 1 column 1",
        "Route": "",
        "Attempts": 2,
        "Node": "n1",
        "Topic": "events",
        "Channel": "kamailio",
        "Message-ID": "0000000000000000",
        "Timestamp": 1_700_000_000_000_000_000,
        "Payload": "hello",
    }
    assert desk.host.counters[Counter.DEAD_LETTERS] == 1


def test_a_dead_letter_keeps_bytes_that_are_no_text() -> None:
    desk = Desk(dead_letter_topic="dead")
    desk.handle(b"\xff\x00")
    letter = json.loads(desk.publisher.published[0].body)
    assert base64.b64decode(letter["Payload-Base64"]) == b"\xff\x00"
    assert "Payload" not in letter


def test_a_message_that_was_given_up_becomes_a_dead_letter_with_its_route() -> None:
    desk = Desk(handlers={NAME: lambda _: -1}, max_attempts="1", dead_letter_topic="dead")
    assert desk.handle(EVENT) == [answer(0, FIN)]
    letter = json.loads(desk.publisher.published[0].body)
    assert (letter["Route"], letter["Reason"]) == (NAME, "its route asked for it again after 1 deliveries")


def test_a_dead_letter_that_nsqd_does_not_take_now_keeps_the_message() -> None:
    desk = Desk(dead_letter_topic="dead", publisher=FakePublisher(ConnectionLost("nobody there")))
    assert desk.handle(b"hello") == [answer(0, REQ, 500)]
    assert desk.host.counters[Counter.DEAD_LETTERS] == 0


def test_a_dead_letter_that_nsqd_does_not_take_now_is_lost_once_the_message_is_finished() -> None:
    desk = Desk(ack="received", dead_letter_topic="dead", publisher=FakePublisher(ConnectionLost("nobody there")))
    assert {kind for _, kind, _ in desk.handle(b"hello")} == {FIN}
    assert desk.lines[-1] == "no dead letter: nobody there"


def test_a_dead_letter_that_nsqd_refuses_for_good_does_not_keep_the_message() -> None:
    desk = Desk(dead_letter_topic="dead", publisher=FakePublisher(NsqdRefused("E_BAD_MESSAGE", "too big", fatal=True)))
    assert desk.handle(b"hello") == [answer(0, FIN)]
    assert "no dead letter: nsqd said E_BAD_MESSAGE too big" in desk.lines


def test_a_dead_letter_topic_that_is_consumed_gets_no_dead_letters_of_its_own() -> None:
    desk = Desk(dead_letter_topic="events")
    assert desk.handle(b"hello") == [answer(0, FIN)]
    assert desk.publisher.published == []


# Presence, of several events together


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create_presentity_table(tmp_path / "kamailio.db")


def presence_desk(path: Path) -> Desk:
    """Return a desk whose native route publishes `data` as presence, as `nsq_pua_publish` does."""
    desk = Desk(store=PresentityStore(f"sqlite+pysqlite:///{path}", "presentity"))

    def publish(_host: FakeHost, payload: str) -> None:
        event = desk.current.event
        assert event is not None
        row = desk.pua.row(event.fields, Order(position=int(event.message_id), message_id="0" * 16), sent_at=None)
        assert row is not None
        if desk.current.collected is None:
            desk.pua.commit([row])
        else:
            desk.current.collected.append(row)

    desk.host.event_routes[NAME] = publish
    return desk


def call(user: str, state: str) -> bytes:
    fields = {
        "Event-Category": "presence",
        "Event-Name": "update",
        "Event-Package": "dialog",
        "From": f"sip:{user}@example.com",
        "To": "sip:bob@example.com",
        "Call-ID": "c1",
        "State": state,
    }
    return json.dumps(fields).encode()


def stored(path: Path) -> list[tuple[str, bytes]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT username, body FROM presentity ORDER BY username").fetchall()


def test_events_that_wait_together_are_committed_once_and_notified_once(path: Path) -> None:
    desk = presence_desk(path)
    desk.handle(call("alice", "early"), call("carol", "early"), call("alice", "confirmed"))
    assert desk.answers.given == [answer(0, FIN), answer(1, FIN), answer(2, FIN)]
    assert sorted(desk.host.refreshed) == [("sip:alice@example.com", "dialog"), ("sip:carol@example.com", "dialog")]
    (alice, carol) = stored(path)
    assert b"confirmed" in alice[1]
    assert b"early" in carol[1]


def test_a_database_that_fails_requeues_those_that_wrote_and_no_others(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE presentity")
    desk = presence_desk(path)
    desk.host.event_routes["nsq:consumer-event"] = lambda *_: None
    desk.handle(call("alice", "early"), b"{}", b"hello", call("carol", "early"))
    assert desk.answers.given == [answer(0, REQ, 500), answer(1, FIN), answer(2, FIN), answer(3, REQ, 500)]
    assert desk.host.counters[Counter.PUA_DATABASE_ERROR] == 1
    assert desk.host.refreshed == []
    assert desk.current.collected is None


def test_nothing_is_left_collected_when_handling_ends_by_an_exception(path: Path) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    desk = presence_desk(path)
    desk.host.event_routes["nsq:consumer-event"] = interrupt
    with pytest.raises(Interrupted):
        desk.handle(call("alice", "early"), b"{}")
    assert (desk.current.collected, desk.answers.given, stored(path)) == (None, [], [])
