# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of a message: what is answered to nsqd, counted and logged, whatever the message and its route do."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.clock import Clock
from kemi_nsq.consumer.committing import Committing
from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.consumer.handling import EventHandling
from kemi_nsq.consumer.message import Current
from kemi_nsq.consumer.origin import Origin, sealed
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.consumer.routes import Handler, KamailioRoutes, PythonRoutes, Router
from kemi_nsq.consumer.tally import Tally
from kemi_nsq.consumer.verdict import Verdicts
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, DatabaseError, NsqdRefused
from kemi_nsq.event import Event
from kemi_nsq.host import Level
from kemi_nsq.names import Subscription
from kemi_nsq.plugin.wiring import wire_presence
from kemi_nsq.presence.row import Order, Row
from kemi_nsq.presence.table import PresentityTable, Saved
from kemi_nsq.runtime.page import Fact, Page
from kemi_nsq.testing import FakeHost
from tests.support.chain import event as presence_event
from tests.support.deliveries import delivery
from tests.support.doubles import FIN, REQ, FakeAnswers, FakePublisher, PickyTable
from tests.support.gates import TestedGate
from tests.support.presentity_table import create_presentity_table
from tests.support.settings import settings

# Nobody closes what Kamailio's processes keep until they end.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

NAME = "nsq:consumer-event-presence-update"
EVENT = b'{"Event-Category": "presence", "Event-Name": "update"}'


class ShownPage(Page):
    """Remembers what was shown to be handled, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.handled: list[str] = []

    def show(self, fact: Fact, text: str) -> None:
        super().show(fact, text)
        if fact is Fact.HANDLING:
            self.handled.append(text)

    def handle(self, message_id: bytes) -> None:
        super().handle(message_id)
        self.handled.append(self.shown(Fact.HANDLING))


class Stage:
    """An `EventHandling` with fakes around it."""

    def __init__(  # noqa: PLR0913  # each is one thing that a test may want to be different
        self,
        *,
        handlers: Mapping[str, Handler] | None = None,
        native: Mapping[str, Callable[[FakeHost, str], None]] | None = None,
        publisher: FakePublisher | None = None,
        table: PresentityTable | None = None,
        died: Mapping[str, float] | None = None,
        backoff_max_s: float = 0,
        **values: str,
    ) -> None:
        self.host = FakeHost(event_routes=native)
        self.answers = FakeAnswers()
        self.publisher = publisher or FakePublisher()
        self.current = Current()
        chosen = settings(**values)
        self.page = self.host.page = ShownPage()
        self.writer = wire_presence(self.host, chosen, table, self.publisher).writer
        self.gate = TestedGate(self.host, backoff_max_s=backoff_max_s, page=self.page)
        self.tally = Tally()
        self.committing = Committing(chosen, self.host, self.writer, self.gate, current=self.current)
        self.handling = EventHandling(
            settings=chosen,
            host=self.host,
            router=Router(chosen, self.host, [PythonRoutes(handlers or {}, self.host), KamailioRoutes(self.host)]),
            current=self.current,
            committing=self.committing,
            gate=self.gate,
            verdicts=Verdicts(chosen, self.host, self.gate, DeadLetters(chosen, self.publisher)),
            tally=self.tally,
            died=died or {},
        )

    def handle(self, *bodies: bytes, attempts: int = 1, first: int = 0) -> list[tuple[str, str, int]]:
        """Handle messages that come together; return what was answered to all so far, numbered from `first`."""
        deliveries = [delivery(body, number=number, attempts=attempts) for number, body in enumerate(bodies, first)]
        self.handling.handle(deliveries, self.answers)
        return self.answers.given

    def answer_to(self, body: bytes, *, number: int = 0, attempts: int = 1) -> tuple[str, int]:
        """Handle one message alone; return what was answered, and the delay."""
        before = len(self.answers.given)
        self.handling.handle([delivery(body, number=number, attempts=attempts)], self.answers)
        ((_, kind, delay_ms),) = self.answers.given[before:]
        return kind, delay_ms

    @property
    def lines(self) -> list[str]:
        return [text for level, text in self.host.lines if level is not Level.DEBUG]


def answer(number: int, kind: str, delay_ms: int = 0) -> tuple[str, str, int]:
    return f"{number:016x}", kind, delay_ms


# One message


def test_an_event_is_decoded_routed_and_finished() -> None:
    seen: list[Event] = []
    stage = Stage(handlers={NAME: seen.append})
    assert stage.handle(EVENT, attempts=2) == [answer(0, FIN)]
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
    assert stage.host.counters == {Counter.RECEIVED: 1}
    assert stage.host.lines == []


def test_the_fields_that_name_the_route_are_settings() -> None:
    seen: list[Event] = []
    stage = Stage(
        handlers={"nsq:consumer-event-mwi-full": seen.append}, consumer_event_key="Type", consumer_event_subkey="State"
    )
    assert stage.handle(b'{"Type": "MWI", "State": "full"}') == [answer(0, FIN)]
    assert len(seen) == 1


def test_the_route_runs_before_the_answer_or_after_it_as_ack_says() -> None:
    for ack, answered in (("processed", []), ("received", [answer(0, FIN)])):
        stage = Stage(ack=ack)
        seen: list[list[tuple[str, str, int]]] = []
        stage.host.event_routes[NAME] = lambda *_, stage=stage, seen=seen: seen.append(list(stage.answers.given))
        stage.handle(EVENT)
        assert seen == [answered]


# Replays


def replay(stage: Stage, origin: Origin, *, topic: str = "replays", channel: str = "kamailio") -> str:
    """Handle a replay that comes by a topic and channel; return what was answered."""
    message = delivery(sealed(origin), number=7, attempts=3, timestamp_ns=1, subscription=Subscription(topic, channel))
    stage.handling.handle([message], stage.answers)
    return stage.answers.given[-1][1]


def an_origin(body: bytes = EVENT, *, channel: str = "kamailio") -> Origin:
    return Origin(topic="events", channel=channel, message_id="ab" * 8, timestamp_ns=17, body=body, replays=2)


def test_a_replay_is_handled_as_the_message_that_it_was() -> None:
    seen: list[Event] = []
    stage = Stage(handlers={NAME: seen.append}, replay_topic="replays")
    assert replay(stage, an_origin()) == FIN
    (event,) = seen
    assert (event.topic, event.channel, event.message_id, event.timestamp_ns) == ("events", "kamailio", "ab" * 8, 17)
    assert (event.payload, event.attempts, event.replays) == (EVENT.decode(), 3, 2)
    assert stage.host.counters == {Counter.RECEIVED: 1, Counter.REPLAYED: 1}


@pytest.mark.parametrize("topic", ["events", "elsewhere"])
@pytest.mark.parametrize("setting", ["", "replays"])
def test_on_any_other_topic_an_envelope_is_plain_data(topic: str, setting: str) -> None:
    seen: list[Event] = []
    stage = Stage(handlers={"nsq:consumer-event": seen.append}, replay_topic=setting)
    assert replay(stage, an_origin(), topic=topic) == FIN
    (event,) = seen
    assert (event.topic, event.message_id, event.timestamp_ns, event.replays) == (topic, f"{7:016x}", 1, 0)
    assert set(event.fields) == {"Replay-Of", "Payload"}
    assert stage.host.counters == {Counter.RECEIVED: 1}


def test_the_replay_for_another_channel_is_left_to_its_copy() -> None:
    stage = Stage(handlers={NAME: lambda _: pytest.fail("it ran")}, replay_topic="replays", dead_letter_topic="dead")
    assert replay(stage, an_origin(channel="another")) == FIN
    assert (stage.host.counters, stage.publisher.sent, stage.lines) == ({Counter.RECEIVED: 1}, [], [])


@pytest.mark.parametrize("body", [b"hello", EVENT])
def test_a_replay_that_fails_again_is_the_same_letter_and_says_how_often(body: bytes) -> None:
    stage = Stage(handlers={NAME: lambda _: -1}, replay_topic="replays", dead_letter_topic="dead", max_attempts="1")
    assert replay(stage, an_origin(body)) == FIN
    letter = json.loads(stage.publisher.sent[0].body)
    wanted = {"Topic": "events", "Channel": "kamailio", "Message-ID": "ab" * 8, "Timestamp": 17, "Replays": 2}
    assert letter == letter | wanted | {"Payload": body.decode(), "Attempts": 3}


def test_what_is_no_replay_is_refused_on_their_topic() -> None:
    stage = Stage(replay_topic="replays", dead_letter_topic="dead", handlers={NAME: lambda _: pytest.fail("it ran")})
    message = delivery(EVENT, subscription=Subscription("replays", "kamailio"))
    stage.handling.handle([message], stage.answers)
    letter = json.loads(stage.publisher.sent[0].body)
    assert letter["Reason"].startswith("it has no Replay-Of, so it is no replay")
    assert (letter["Topic"], letter["Payload"]) == ("replays", EVENT.decode())
    assert stage.host.counters[Counter.INVALID] == 1


BAD_BODIES = [b"", b" ", b"hello", b"[1]", b'"x"', b"null", b"17", b'{"a": "\xff"}', b"{'a': 1}", b'{"a": NaN}', b"\0"]


@pytest.mark.parametrize("ack", ["processed", "received"])
@pytest.mark.parametrize("body", [*BAD_BODIES, b'{"a": "' + b"x" * 70_000 + b'"}', b"[" * 60_000])
def test_a_body_that_cannot_be_used_is_finished_with_a_counter_and_one_line(body: bytes, ack: str) -> None:
    stage = Stage(ack=ack, native={"nsq:consumer-event": lambda *_: pytest.fail("it was routed")})
    assert set(stage.handle(body)) == {answer(0, FIN)}
    assert stage.host.counters == {Counter.RECEIVED: 1, Counter.INVALID: 1}
    (line,) = stage.lines
    assert line.startswith("events:kamailio message 0000000000000000 dropped: the body ")
    assert len(line) < 300


def test_no_route_is_counted_each_time_and_logged_once_for_each_name() -> None:
    stage = Stage()
    other, blank = b'{"Event-Category": "other"}', b'{"Event-Category": "other "}'
    for body in (EVENT, EVENT, other, EVENT, blank):
        stage.handle(body)
    assert {kind for _, kind, _ in stage.answers.given} == {FIN}
    assert stage.host.counters[Counter.UNROUTED] == 5
    assert stage.lines == [
        f"no event_route for {NAME} from events:kamailio; such events are dropped (message {0:016x})",
        f"no event_route for nsq:consumer-event-other from events:kamailio; such events are dropped (message {0:016x})",
        "no event_route for 'nsq:consumer-event-other ' from events:kamailio; such events are dropped "
        f"(message {0:016x})",
    ]


def test_the_names_that_were_logged_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.routes._REMEMBERED_UNROUTED", 3)
    stage = Stage()
    for number in (0, 1, 2, 3, 3, 0):
        stage.handle(b'{"Event-Category": "x%d"}' % number)
    assert len(stage.lines) == 5, "the first was forgotten, so it is logged again"


@pytest.mark.parametrize("depth", [254, 1000])
def test_a_deeply_nested_field_that_names_the_route_is_no_trouble(depth: int) -> None:
    stage = Stage(handlers={"nsq:consumer-event": lambda _: None})
    assert stage.handle(b'{"Event-Category": ' + b"[" * depth + b"]" * depth + b"}") == [answer(0, FIN)]
    assert stage.host.counters == {Counter.RECEIVED: 1}


# Coming again


def failing(_event: Event) -> int:
    raise ValueError("the operator's mistake")


@pytest.mark.parametrize("handler", [lambda _: -1, failing], ids=["negative", "raises"])
def test_what_fails_comes_again_later_each_time(handler: Handler) -> None:
    stage = Stage(handlers={NAME: handler}, max_attempts="9")
    for attempts in range(1, 9):
        stage.handle(EVENT, attempts=attempts)
    delays = [delay_ms for _, kind, delay_ms in stage.answers.given if kind == REQ]
    assert delays == [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000]
    assert stage.host.counters[Counter.REQUEUED] == 8


def test_what_a_native_route_requeues_comes_again() -> None:
    stage = Stage(native={NAME: lambda host, _: host.set_variable("nqAck", "requeue")})
    assert stage.handle(EVENT) == [answer(0, REQ, 500)]


def test_with_ack_received_nothing_comes_again() -> None:
    stage = Stage(handlers={NAME: failing}, ack="received")
    assert stage.handle(EVENT) == [answer(0, FIN)]
    assert stage.host.counters == {Counter.RECEIVED: 1, Counter.ROUTE_FAILED: 1}


@pytest.mark.parametrize("nsqd_says", [1, 5, 65535])
def test_a_message_is_given_up_after_its_own_route_has_failed_so_often(nsqd_says: int) -> None:
    stage = Stage(handlers={NAME: lambda _: -1}, max_attempts="3")
    assert stage.answer_to(EVENT, attempts=nsqd_says) == (REQ, 500)
    assert stage.answer_to(EVENT, attempts=nsqd_says) == (REQ, 1000)
    assert stage.lines == []
    assert stage.answer_to(EVENT, attempts=nsqd_says) == (FIN, 0)
    assert stage.host.counters[Counter.GAVE_UP] == 1
    assert [line.split(" dropped: ")[0] for line in stage.lines] == ["events:kamailio message 0000000000000000"]


def test_a_message_that_succeeds_in_between_begins_anew() -> None:
    results = [-1, -1, 1, -1]
    stage = Stage(handlers={NAME: lambda _: results.pop(0)}, max_attempts="3")
    assert [stage.answer_to(EVENT)[0] for _ in range(4)] == [REQ, REQ, FIN, REQ]


def test_nsqd_s_count_alone_never_costs_a_message_anything() -> None:
    """Deliveries end without an answer for many reasons: a lost connection, a restart, another consumer's outage."""
    seen: list[Event] = []
    stage = Stage(handlers={NAME: seen.append}, max_attempts="3")
    assert stage.answer_to(EVENT, attempts=65535) == (FIN, 0)
    assert len(seen) == 1
    assert Counter.GAVE_UP not in stage.host.counters


def test_a_bug_of_ours_requeues_its_message_and_no_other() -> None:
    def broken(*_: object) -> None:
        raise IndexError("not of the operator's code")

    stage = Stage(native={"nsq:consumer-event-bad": broken, NAME: lambda *_: None})
    stage.handle(EVENT, b'{"Event-Category": "bad"}', EVENT)
    assert stage.answers.given == [answer(0, FIN), answer(1, REQ, 500), answer(2, FIN)]
    assert stage.host.counters[Counter.BUG] == 1
    line, *trace = stage.lines
    assert line.startswith("message 0000000000000001: IndexError: ")
    assert trace[0] == "Traceback (most recent call last):"
    assert any("in broken" in each for each in trace)
    assert trace[-1] == "IndexError: not of the operator's code"


def test_an_exit_in_a_handler_requeues_its_message_and_no_other() -> None:
    def leave(_event: Event) -> None:
        raise SystemExit

    stage = Stage(handlers={NAME: leave, "nsq:consumer-event": lambda _: None})
    assert stage.handle(b"{}", EVENT) == [answer(0, FIN), answer(1, REQ, 500)]


# Dead letters


def test_a_dead_letter_says_what_came_and_why_it_went_no_further() -> None:
    stage = Stage(dead_letter_topic="dead", node="n1")
    assert stage.handle(b"hello", attempts=2) == [answer(0, FIN)]
    (letter,) = stage.publisher.sent
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
    assert stage.host.counters[Counter.DEAD_LETTERS] == 1


def test_a_dead_letter_keeps_bytes_that_are_no_text() -> None:
    stage = Stage(dead_letter_topic="dead")
    stage.handle(b"\xff\x00")
    letter = json.loads(stage.publisher.sent[0].body)
    assert base64.b64decode(letter["Payload-Base64"]) == b"\xff\x00"
    assert "Payload" not in letter


def test_a_message_that_was_given_up_becomes_a_dead_letter_with_its_route() -> None:
    stage = Stage(handlers={NAME: lambda _: -1}, max_attempts="1", dead_letter_topic="dead")
    assert stage.handle(EVENT) == [answer(0, FIN)]
    letter = json.loads(stage.publisher.sent[0].body)
    assert (letter["Route"], letter["Reason"]) == (NAME, "its route failed, or asked for it again, 1 times")


def test_a_dead_letter_that_nsqd_does_not_take_now_keeps_the_message() -> None:
    stage = Stage(dead_letter_topic="dead", publisher=FakePublisher(ConnectionLost("nobody there")))
    assert stage.handle(b"hello") == [answer(0, REQ)]
    assert stage.host.counters == {Counter.RECEIVED: 1, Counter.GIVEN_BACK: 1, Counter.OUTAGES: 1}
    (line,) = stage.lines
    assert line.startswith("no nsqd takes dead letters: nobody there; nothing is taken from events:kamailio until ")


def test_a_dead_letter_that_nsqd_does_not_take_now_is_lost_once_the_message_is_finished() -> None:
    stage = Stage(ack="received", dead_letter_topic="dead", publisher=FakePublisher(ConnectionLost("nobody there")))
    assert {kind for _, kind, _ in stage.handle(b"hello")} == {FIN}
    assert f"no dead letter: nobody there (message {0:016x} of events)" in stage.lines


def test_a_dead_letter_that_nsqd_refuses_for_good_does_not_keep_the_message() -> None:
    stage = Stage(
        dead_letter_topic="dead", publisher=FakePublisher(NsqdRefused("E_BAD_MESSAGE", "too big", fatal=True))
    )
    assert stage.handle(b"hello") == [answer(0, FIN)]
    assert f"no dead letter: nsqd said E_BAD_MESSAGE too big (message {0:016x} of events)" in stage.lines


def test_a_dead_letter_topic_that_is_consumed_gets_no_dead_letters_of_its_own() -> None:
    stage = Stage(dead_letter_topic="events")
    assert stage.handle(b"hello") == [answer(0, FIN)]
    assert stage.publisher.sent == []


# Presence, of several events together


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create_presentity_table(tmp_path / "kamailio.db")


def presence_stage(path: Path, *, table: PresentityTable | None = None, **options: Any) -> Stage:
    """Return a stage whose native route publishes `data` as presence, as `nsq_pua_publish` does."""
    stage = Stage(table=table or PresentityTable(f"sqlite+pysqlite:///{path}", "presentity"), **options)

    def publish(_host: FakeHost, payload: str) -> None:
        event = stage.current.event
        assert event is not None
        assert stage.writer is not None
        order = Order(position=int(event.message_id, 16), message_id="0" * 16)
        row = stage.writer.row(event.fields, order, sent_at=None)
        assert row is not None
        if stage.current.collect(row):
            return
        try:
            stage.writer.commit([row])
        except DatabaseError as error:
            stage.current.fail(error)

    stage.host.event_routes[NAME] = publish
    return stage


def call(user: str, state: str) -> bytes:
    return presence_event("dialog", user, To="sip:bob@example.com", Call_ID="c1", State=state)


def stored(path: Path) -> list[tuple[str, bytes]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT username, body FROM presentity ORDER BY username").fetchall()


def test_events_that_wait_together_are_committed_once_and_notified_once(path: Path) -> None:
    stage = presence_stage(path)
    stage.handle(call("alice", "early"), call("carol", "early"), call("alice", "confirmed"))
    assert stage.answers.given == [answer(0, FIN), answer(1, FIN), answer(2, FIN)]
    assert sorted(stage.host.refreshed) == [("sip:alice@example.com", "dialog"), ("sip:carol@example.com", "dialog")]
    (alice, carol) = stored(path)
    assert b"confirmed" in alice[1]
    assert b"early" in carol[1]


def test_a_database_that_fails_requeues_those_that_wrote_and_no_others(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE presentity")
    stage = presence_stage(path)
    stage.host.event_routes["nsq:consumer-event"] = lambda *_: None
    stage.handle(call("alice", "early"), b"{}", b"hello", call("carol", "early"))
    assert stage.answers.given == [answer(0, REQ), answer(1, FIN), answer(2, FIN), answer(3, REQ)]
    assert stage.host.counters[Counter.PUA_DATABASE_ERROR] == 1
    assert stage.host.refreshed == []
    assert stage.current.collected() == []


def test_nothing_is_left_collected_when_handling_ends_by_an_exception(path: Path) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    stage = presence_stage(path)
    stage.host.event_routes["nsq:consumer-event"] = interrupt
    with pytest.raises(Interrupted):
        stage.handle(call("alice", "early"), b"{}")
    assert (stage.current.collected(), stage.answers.given, stored(path)) == ([], [], [])
    assert stage.current.event is None


# Outages, which are no message's fault


def drop_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE presentity")


def test_a_message_given_back_in_an_outage_is_never_given_up(path: Path) -> None:
    stage = presence_stage(path, max_attempts="2", dead_letter_topic="dead")
    drop_table(path)
    stage.gate.failing[Kind.DATABASE] = "gone"
    for attempts in range(1, 40):
        assert stage.answer_to(call("alice", "early"), attempts=attempts) == (REQ, 0)
        stage.gate.pass_time(60)
    assert stage.publisher.sent == []
    assert Counter.GAVE_UP not in stage.host.counters
    stage.gate.failing.clear()
    stage.gate.pass_time(60)
    create_presentity_table(path)
    assert stage.answer_to(call("alice", "early"), attempts=40) == (FIN, 0)
    assert len(stored(path)) == 1


def test_what_waits_of_a_topic_that_met_an_outage_is_given_back_unhandled(path: Path) -> None:
    stage = presence_stage(path, pua_refresh="0")
    drop_table(path)
    stage.gate.failing[Kind.DATABASE] = "gone"
    stage.handle(call("alice", "early"), call("carol", "early"), b"hello")
    stage.handle(call("dave", "early"), first=3)
    assert sorted(stage.answers.given) == [answer(number, REQ) for number in range(4)]
    assert stage.host.counters == {
        Counter.RECEIVED: 1,
        Counter.GIVEN_BACK: 4,
        Counter.OUTAGES: 1,
    }
    assert [line.partition(";")[0] for line in stage.lines] == ["the database fails: no such table: presentity"]


def test_other_topics_go_on_in_an_outage(path: Path) -> None:
    stage = presence_stage(path)
    stage.gate.failed(Kind.DATABASE, [Subscription("another", "channel")], "gone")
    assert stage.handle(b"{}") == [answer(0, FIN)]


def test_with_ack_received_what_waits_is_not_finished_before_it_is_given_back(path: Path) -> None:
    stage = presence_stage(path, ack="received")
    stage.gate.failed(Kind.DATABASE, [Subscription("events", "kamailio")], "gone")
    assert stage.handle(call("alice", "early")) == [answer(0, REQ)]


def test_with_ack_received_no_line_promises_that_a_message_comes_again(path: Path) -> None:
    def broken(*_: object) -> None:
        raise IndexError("not of the operator's code")

    handlers = {"nsq:consumer-event-raises": failing}
    stage = presence_stage(path, handlers=handlers, ack="received", dead_letter_topic="dead")
    stage.host.event_routes["nsq:consumer-event-bug"] = broken
    drop_table(path)
    stage.publisher.failure = ConnectionLost("nobody there")
    bad = (b'{"Event-Category": "raises"}', b'{"Event-Category": "bug"}')
    stage.handle(*bad, call("alice", "early"), call("alice", "confirmed"))
    stage.gate.pass_time(60)
    stage.handle(b"hello")
    assert {kind for _, kind, _ in stage.answers.given} == {FIN}
    assert [line for line in stage.lines if re.search("comes? again|requeue|trying", line)] == []
    for said in ("the operator's mistake", "IndexError", "the states of message", "no dead letter"):
        assert any(said in line for line in stage.lines)


def test_own_failures_are_what_is_left_when_outages_are_taken_off(path: Path) -> None:
    stage = presence_stage(path, max_attempts="3", dead_letter_topic="dead")
    topic = Subscription("events", "kamailio")
    for attempts in range(1, 8):
        stage.gate.failed(Kind.DATABASE, [topic], "gone")
        assert stage.answer_to(EVENT, attempts=attempts) == (REQ, 0)
    stage.gate.pass_time(60)
    stage.host.event_routes[NAME] = lambda host, _: host.set_variable("nqAck", "requeue")
    assert stage.answer_to(EVENT, attempts=8) == (REQ, 500)
    assert stage.answer_to(EVENT, attempts=9) == (REQ, 1000)
    assert stage.answer_to(EVENT, attempts=10) == (FIN, 0)
    letter = json.loads(stage.publisher.sent[0].body)
    assert letter["Reason"] == "its route failed, or asked for it again, 3 times"


def test_the_messages_that_were_given_back_are_remembered_within_bounds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.verdict._REMEMBERED", 3)
    stage = presence_stage(path)
    stage.gate.failed(Kind.DATABASE, [Subscription("events", "kamailio")], "gone")
    stage.handle(*[EVENT] * 5)
    assert len(stage.handling._verdicts._given_back) == 3
    stage.gate.pass_time(60)
    stage.handle(*[b"{}"] * 5)
    assert len(stage.handling._verdicts._given_back) == 0


def test_a_dead_letter_waits_for_nsqd_and_is_told_of_once(path: Path) -> None:
    stage = Stage(dead_letter_topic="dead", publisher=FakePublisher(ConnectionLost("nobody there")))
    stage.gate.failing[Kind.DEAD_LETTERS] = "nobody there"
    for attempts in range(1, 30):
        assert stage.answer_to(b"hello", attempts=attempts) == (REQ, 0)
        stage.gate.pass_time(1)
    stage.gate.failing.clear()
    stage.gate.pass_time(5)
    stage.publisher.failure = None
    assert stage.answer_to(b"hello", attempts=30) == (FIN, 0)
    assert stage.host.counters[Counter.INVALID] == 1
    assert [line.partition(" dropped")[0] for line in stage.lines[-1:]] == ["events:kamailio message 0000000000000000"]


LOCKED = DatabaseError("a lock was not given in time")


def picky(path: Path) -> PickyTable:
    return PickyTable(path, "alice", failure=LOCKED)


def test_one_that_the_database_does_not_take_holds_the_others_up_only_once(path: Path) -> None:
    """A row that somebody else has locked, say: the probe succeeds, and yet this message fails."""
    stage = presence_stage(path, table=picky(path))
    batch = [call(user, "early") for user in ("alice", "bob", "carol")]
    stage.handle(*batch)
    assert {kind for _, kind, _ in stage.answers.given} == {REQ}
    stage.gate.pass_time(1)
    stage.answers.given.clear()
    stage.handle(*batch, attempts=2)
    assert stage.answers.given == [answer(0, REQ, 1000), answer(1, FIN), answer(2, FIN)]
    assert not stage.gate.holds(Subscription("events", "kamailio"))
    assert "but not 1, such as 0000000000000000: a lock was not given in time" in stage.lines[-1]


def test_a_database_that_only_seemed_to_work_is_not_asked_for_each_message(path: Path) -> None:
    table = picky(path)
    stage = presence_stage(path, table=table)
    stage.handle(*[call("alice", "early")] * 50)
    stage.gate.pass_time(1)
    stage.handle(*[call("alice", "early")] * 50, attempts=2)
    assert table.calls == 1 + 1 + 2
    assert stage.gate.holds(Subscription("events", "kamailio"))


def test_a_bug_that_only_one_message_meets_while_they_are_written_apart_spares_the_others(path: Path) -> None:
    class Broken(PickyTable):
        def save_all(self, given: Sequence[Row]) -> Saved:
            if [row.username for row in given] == ["bob"]:
                raise ZeroDivisionError("a bug")
            return super().save_all(given)

    stage = presence_stage(path, table=Broken(path, "alice", failure=LOCKED))
    batch = [call(user, "early") for user in ("alice", "bob", "carol")]
    stage.handle(*batch)
    stage.gate.pass_time(1)
    stage.answers.given.clear()
    stage.handle(*batch, attempts=2)
    assert stage.answers.given == [answer(0, REQ, 1000), answer(1, REQ, 500), answer(2, FIN)]
    assert stage.host.counters[Counter.BUG] == 1


def test_rows_that_are_locked_one_after_the_other_do_not_hold_the_consumer_up_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second one waits for its lock: no more than NSQ_DB_TIMEOUT for all of them."""
    table = picky(path)
    stage = presence_stage(path, table=table)
    stage.handle(*[call("alice", "early")] * 2)
    stage.gate.pass_time(1)
    stage.answers.given.clear()
    seconds = iter(range(0, 1000, 3))
    monkeypatch.setattr(stage.committing, "_clock", Clock(monotonic=lambda: next(seconds)))
    table.calls = 0
    stage.handle(*[call(user, "early") for user in ("bob", "alice") * 25])
    assert table.calls == 1 + 3
    assert [kind for _, kind, _ in stage.answers.given].count(REQ) == 48
    assert not stage.gate.holds(Subscription("events", "kamailio"))


# Routes that fail for every event


def test_what_waits_behind_a_route_that_fails_for_all_is_given_back_and_does_not_count() -> None:
    stage = Stage(handlers={NAME: lambda _: -1}, backoff_max_s=60, max_attempts="2")
    stage.handle(*[EVENT] * 8)
    assert stage.answers.given == [
        answer(number, REQ, 0 if number >= 5 else 500) for number in (5, 6, 7, 0, 1, 2, 3, 4)
    ]
    assert stage.host.counters[Counter.GIVEN_BACK] == 3
    stage.gate.pass_time(1)
    stage.answers.given.clear()
    stage.handle(EVENT, first=5, attempts=2)
    stage.handle(EVENT, first=6, attempts=2)
    assert stage.answers.given == [answer(5, REQ, 500), answer(6, REQ)], "one on trial, the other waits"


def test_a_success_ends_the_backoff() -> None:
    outcome = [-1]
    stage = Stage(handlers={NAME: lambda _: outcome[0]}, backoff_max_s=60)
    stage.handle(*[EVENT] * 5)
    outcome[0] = 1
    stage.gate.pass_time(1)
    stage.answers.given.clear()
    stage.handle(*[EVENT] * 5, attempts=2)
    assert {kind for _, kind, _ in stage.answers.given} == {FIN}


# A process that died


def test_the_message_that_is_handled_is_shown_and_those_that_are_committed(path: Path) -> None:
    stage = presence_stage(path)
    stage.handle(call("alice", "early"), b"{}", call("carol", "early"))
    ids = [f"{number:016x}" for number in range(3)]
    assert stage.page.handled == [*ids, f"{ids[0]} {ids[2]}", ""]


def test_nothing_is_shown_to_be_handled_after_an_exception() -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    stage = Stage(native={NAME: interrupt})
    with pytest.raises(Interrupted):
        stage.handle(EVENT)
    assert stage.page.shown(Fact.HANDLING) == ""


def test_a_message_that_kamailio_may_have_died_of_is_handled_by_itself(path: Path) -> None:
    ids = [f"{number:016x}" for number in range(3)]
    stage = presence_stage(path, died={ids[1]: 2})
    stage.handle(call("alice", "early"), call("bob", "early"), call("carol", "early"))
    assert stage.answers.given == [answer(0, FIN), answer(2, FIN), answer(1, FIN)]
    assert stage.page.handled == [ids[0], ids[2], f"{ids[0]} {ids[2]}", "", ids[1], ""]


def test_a_message_that_kamailio_died_of_three_times_is_not_handled_any_more() -> None:
    stage = Stage(
        handlers={NAME: lambda _: pytest.fail("it ran")}, died={"0000000000000000": 3}, dead_letter_topic="dead"
    )
    assert stage.handle(EVENT, attempts=4) == [answer(0, FIN)]
    assert stage.host.counters == {Counter.RECEIVED: 1, Counter.GAVE_UP: 1, Counter.DEAD_LETTERS: 1}
    letter = json.loads(stage.publisher.sent[0].body)
    assert letter["Reason"] == "Kamailio died again and again while it was handled"


def test_a_bug_that_meets_each_event_is_told_with_a_few_tracebacks() -> None:
    def broken(*_: object) -> None:
        raise IndexError("not of the operator's code")

    stage = Stage(native={NAME: broken})
    for _ in range(100):
        stage.handle(EVENT)
    assert sum(line.startswith("Traceback") for line in stage.lines) == 3
    assert sum(line.startswith("message ") for line in stage.lines) == 20
