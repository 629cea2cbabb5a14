# SPDX-License-Identifier: GPL-2.0-or-later
"""From messages to rows and NOTIFYs: one by one, in batches, redelivered, with clocks that differ and odd Expires."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from kemi_nsq.consumer.message import Delivery
from kemi_nsq.consumer.origin import sealed
from kemi_nsq.consumer.supervisor import Supervisor
from kemi_nsq.consumer.verdict import Answers
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError, NsqError, RowRefused
from kemi_nsq.event import Event
from kemi_nsq.host import Level
from kemi_nsq.names import Subscription
from kemi_nsq.plugin.wiring import wire
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.row import GRACE_S, Row
from kemi_nsq.presence.table import PresentityTable, Saved
from kemi_nsq.testing import FakeHost
from tests.support.deliveries import again, delivery
from tests.support.doubles import FakeAnswers, PickyTable
from tests.support.presence_consumers import PresenceConsumer
from tests.support.script import GivenHandlers
from tests.support.settings import settings

HOUR_S = 3600
HOSTILE_POSITIONS: list[object] = [
    *(None, "", "x", -1, -0.5, "NaN", "sNaN", "-Infinity", True, [1], {"a": 1}),
    *("1e19", "1e999990", "1e999999", "-1e999990", "9" * 4000),
]
#: When nsqd took the messages, but for those of which a test says something else.
NOW = time.time()
INT32 = 2**31 - 1


class Recorded(PresenceConsumer):
    """A consumer that remembers what `nsq_pua_publish` returned or raised in each route."""

    returned: list[Change | NsqError]

    def publish(self, _event: Event) -> None:
        self.returned = getattr(self, "returned", [])
        try:
            self.returned.append(self.functions.publish(None))
        except NsqError as error:
            self.returned.append(error)


@pytest.fixture
def consumer(table: PresentityTable) -> Recorded:
    return Recorded(FakeHost(), table)


def message(number: int = 0, *, user: str = "alice", sent_at: float = NOW, **fields: object) -> Delivery:
    """Return a message with a call's event; later numbers are later."""
    named: dict[str, object] = {
        "Event-Package": "dialog",
        "From": f"sip:{user}@example.com",
        "To": "sip:bob@example.com",
        "Call-ID": "c1",
        "State": "early",
    }
    named |= {name.replace("_", "-"): value for name, value in fields.items()}
    return delivery(json.dumps(named).encode(), number=number, timestamp_ns=int(sent_at * 1e9) + number)


def rows(table: PresentityTable) -> dict[str, Row]:
    return {row.username: row for _, row in table.search.find()}


def texts(host: FakeHost) -> list[str]:
    return [text for level, text in host.lines if level is not Level.DEBUG]


# One by one, and in batches


def test_alone_it_is_stored_at_once_and_the_route_learns_what_it_did(consumer: Recorded) -> None:
    first = message(1)
    for each in (first, message(2), again(first), message(3, State="confirmed"), message(4, State="nonsense")):
        assert len(consumer.handle([each]).finished) == 1
    *codes, refused = consumer.returned
    assert codes == [Change.STORED, Change.UNCHANGED, Change.STALE, Change.STORED]
    assert isinstance(refused, NsqError)


def test_in_a_batch_the_route_learns_that_it_is_valid_and_will_be_stored(
    consumer: Recorded, table: PresentityTable
) -> None:
    stored_meanwhile: list[int] = []
    publish = consumer.functions.publish

    def watch(payload: str | None) -> Change:
        change = publish(payload)
        stored_meanwhile.append(len(rows(table)))
        return change

    consumer.functions.publish = watch  # type: ignore[method-assign]
    batch = [message(1), message(2), message(3, State="nonsense"), message(0, State="trying")]
    answered = consumer.handle(batch)
    assert answered.finished == batch
    assert [each for each in consumer.returned if isinstance(each, Change)] == [Change.STORED] * 3
    assert stored_meanwhile == [0, 0, 0]
    assert b"early" in rows(table)["alice"].body
    assert consumer.host.counters[Counter.PUA_STORED] == 1
    assert consumer.host.counters[Counter.PUA_STALE] == 2


def test_a_batch_is_one_transaction_and_one_refresh_of_each_presentity(
    consumer: Recorded, table: PresentityTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    save_all = table.save_all

    def counted(given: Sequence[Row]) -> Saved:
        commits.append(len(given))
        return save_all(given)

    monkeypatch.setattr(table, "save_all", counted)
    batch = [message(number, user=f"u{number % 3}", State="confirmed", Call_ID=f"c{number}") for number in range(12)]
    assert consumer.handle(batch).finished == batch
    assert commits == [12]
    assert sorted(consumer.host.refreshed) == [(f"sip:u{number}@example.com", "dialog") for number in range(3)]


def test_with_the_refresh_left_to_the_route_each_is_stored_at_once(table: PresentityTable) -> None:
    consumer = Recorded(FakeHost(), table, pua_refresh="0")
    consumer.handle([message(1), message(2), message(3, State="confirmed")])
    assert consumer.returned == [Change.STORED, Change.UNCHANGED, Change.STORED]
    assert consumer.host.refreshed == []


@pytest.mark.parametrize(("batch", "sizes"), [("1", [1, 1, 1, 1, 1]), ("2", [2, 2, 1]), ("100", [5])])
def test_batches_are_as_large_as_the_setting_allows(batch: str, sizes: list[int]) -> None:
    handled: list[int] = []

    class Handling:
        def handle(self, deliveries: Sequence[Delivery], answers: Answers) -> None:
            handled.append(len(deliveries))

    consumer = Supervisor(
        settings(batch=batch),
        FakeHost(),
        Handling(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        clocks=None,
        make_sender=None,
        inquiries=None,  # type: ignore[arg-type]
        notices=None,  # type: ignore[arg-type]
    )
    consumer._io = None  # type: ignore[assignment]  # nobody is answered here
    consumer._take([message(number) for number in range(5)])
    assert handled == sizes


# What fails


def test_one_row_that_the_database_refuses_spoils_no_other(path: Path) -> None:
    with closing(PickyTable(path, "bad", failure=RowRefused("no such character"))) as table:
        consumer = Recorded(FakeHost(), table)
        batch = [message(number, user=user) for number, user in enumerate(["a", "bad", "c"])]
        assert consumer.handle(batch).finished == batch
        assert set(rows(table)) == {"a", "c"}
        assert consumer.host.counters[Counter.PUA_INVALID] == 1
        assert texts(consumer.host) == ["message 0000000000000001 dropped: no such character"]


class Halfway(PresentityTable):
    """A store that stores the first of several rows, and fails with the others."""

    def __init__(self, path: Path, error: RowRefused | DatabaseError) -> None:
        super().__init__(f"sqlite+pysqlite:///{path}", "presentity")
        self._error = error

    def save_all(self, given: Sequence[Row]) -> Saved:
        saved = super().save_all(given[:1])
        left = given[1:]
        return replace(saved, changes=[*saved.changes, *[None for _ in left]], failed=self._error if left else None)


@pytest.mark.parametrize("error", [RowRefused("no such character"), DatabaseError("locked")])
def test_what_a_failed_commit_stored_all_the_same_is_told_of(path: Path, error: RowRefused | DatabaseError) -> None:
    with closing(Halfway(path, error)) as table:
        consumer = Recorded(FakeHost(), table)
        consumer.handle([message(number, user=user) for number, user in enumerate("ab")])
        assert consumer.host.refreshed[:1] == [("sip:a@example.com", "dialog")]
        assert consumer.host.counters[Counter.PUA_STORED] >= 1


@pytest.mark.parametrize(("ack", "again_"), [("processed", [1, 3]), ("received", [])])
def test_a_failed_commit_requeues_those_that_wrote(path: Path, ack: str, again_: list[int]) -> None:
    with closing(PickyTable(path, "a", failure=DatabaseError("locked"))) as table:
        consumer = Recorded(FakeHost(), table, ack=ack)
        batch = [message(0, State="nonsense"), message(1, user="a"), message(2, From=""), message(3, user="b")]
        answered = consumer.handle(batch)
        assert [int(each.message.message_id, 16) for each in answered.requeued] == again_
        assert set(rows(table)) == set()
        assert table.calls == 1
        lost = [f"the states of message {1:016x} are lost: it was finished before (NSQ_ACK)"]
        lost += [f"the states of message {3:016x} are lost: it was finished before (NSQ_ACK)"]
        assert [text for text in texts(consumer.host) if "are lost" in text] == (lost if ack == "received" else [])
        assert any(text.startswith("the database fails: locked; nothing is taken") for text in texts(consumer.host))


def test_a_database_that_fails_for_ever_costs_no_message_anything(path: Path) -> None:
    with closing(PickyTable(path, "a", failure=DatabaseError("locked"))) as table:
        consumer = Recorded(FakeHost(), table, max_attempts="2")
        waiting = [message(0, user="a"), message(1, user="a")]
        for _ in range(20):
            waiting = consumer.handle(waiting).requeued
        assert len(waiting) == 2
        assert consumer.host.counters[Counter.GAVE_UP] == 0
        table.users.clear()
        assert consumer.handle(waiting).requeued == []
        assert len(rows(table)) == 1


def test_what_was_delivered_before_is_told_of_again(consumer: Recorded) -> None:
    """Whoever had it may have died after the commit and before the NOTIFY."""
    first = message(1)
    consumer.handle([first])
    consumer.host.refreshed.clear()
    consumer.handle([first])
    assert consumer.host.refreshed == [], "nsqd said that this is the first delivery: a copy, nobody died"
    consumer.handle([again(first)])
    consumer.handle([again(first), message(2, user="carol")])
    told = [("sip:alice@example.com", "dialog")] * 2 + [("sip:carol@example.com", "dialog")]
    assert sorted(consumer.host.refreshed) == told


# Who watches


def test_nobody_watches_so_the_row_is_stored_and_nobody_told(path: Path) -> None:
    engine = sa.create_engine(f"sqlite+pysqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE active_watchers (presentity_uri TEXT, event TEXT)")
        connection.exec_driver_sql("INSERT INTO active_watchers VALUES ('sip:b@example.com', 'dialog')")
        connection.exec_driver_sql("INSERT INTO active_watchers VALUES ('sip:a@example.com', 'presence')")
    engine.dispose()
    with closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentity", "active_watchers")) as table:
        consumer = Recorded(FakeHost(), table)
        consumer.handle([message(number, user=user) for number, user in enumerate("abc")])
        assert set(rows(table)) == {"a", "b", "c"}
        assert consumer.host.refreshed == [("sip:b@example.com", "dialog")]


def test_who_watches_cannot_be_read_so_all_are_told(path: Path) -> None:
    with closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentity", "no_such_table")) as table:
        consumer = Recorded(FakeHost(), table)
        consumer.handle([message(number, user=user) for number, user in enumerate("abc")])
        assert len(consumer.host.refreshed) == 3


def test_a_refresh_that_is_refused_is_counted_and_the_state_is_stored(
    consumer: Recorded, table: PresentityTable
) -> None:
    consumer.host.refresh_accepted = False
    assert len(consumer.handle([message(1)]).finished) == 1
    assert consumer.host.counters[Counter.REFRESH_FAILED] == 1
    assert set(rows(table)) == {"alice"}


def test_paced_notifies_come_later_and_the_end_at_once(table: PresentityTable) -> None:
    consumer = Recorded(FakeHost(), table, notify_interval="60")
    told = []
    for number, state in enumerate(("trying", "early", "confirmed", "terminated")):
        consumer.handle([message(number, State=state)])
        told.append(len(consumer.host.refreshed))
    assert told == [1, 1, 1, 2]


def test_nothing_is_held_back_where_nobody_would_send_it_later(path: Path) -> None:
    """A SIP worker that publishes has no main loop; a NOTIFY held back there would never leave."""
    host = FakeHost()
    functions = wire(host, settings(notify_interval="60", db_url=f"sqlite:///{path}"), GivenHandlers(), native=True).pua
    for state in ("early", "confirmed"):
        functions.publish(message(State=state).message.body.decode())
    assert len(host.refreshed) == 2


# Bugs, and rows that the database refuses


class Bearing(PresenceConsumer):
    """A consumer whose route, as `plugin` does, bears whatever is raised."""

    def publish(self, event: Event) -> None:
        with suppress(Exception):
            if event.fields.get("reset"):
                self.functions.reset(None)
            else:
                self.functions.publish(None)


@pytest.fixture
def spoiled(path: Path) -> Iterator[PickyTable]:
    """Return a table that takes no row of `spoiler`."""
    with closing(PickyTable(path, "spoiler", failure=RowRefused("the database refuses it"))) as made:
        yield made


def test_a_bug_lets_its_own_message_come_again_and_no_other(spoiled: PickyTable) -> None:
    spoiled.failure = UnicodeEncodeError("latin-1", "x", 0, 1, "a bug")
    consumer = Bearing(FakeHost(), spoiled)
    spoiler, others = message(1, user="spoiler"), [message(2, user="bob"), message(3, user="carol")]
    alone, together = consumer.handle([spoiler]), consumer.handle([others[0], spoiler, others[1]])
    assert (alone.finished, alone.requeued) == ([], [again(spoiler)])
    assert (together.finished, together.requeued) == (others, [again(spoiler)])
    assert set(rows(spoiled)) == {"bob", "carol"}
    assert consumer.host.counters[Counter.BUG] == 1


def test_a_row_that_is_refused_takes_no_reset_of_its_batch_along(spoiled: PickyTable) -> None:
    consumer = Bearing(FakeHost(), spoiled)
    reset = message(3, reset=True, Sender_URI="sip:pbx1")
    consumer.handle([message(0, Sender_URI="sip:pbx1")])
    batch = [message(1, user="spoiler"), message(2, user="carol"), reset]
    assert consumer.handle(batch).finished == batch
    assert set(rows(spoiled)) == {"carol"}, "the call of pbx1 is over"
    assert consumer.host.counters[Counter.PUA_INVALID] == 1


# Clocks


@pytest.mark.parametrize("offset_s", [-HOUR_S, HOUR_S])
def test_a_clock_of_nsqd_that_is_an_hour_off_changes_order_and_lifetime_of_nothing(
    consumer: Recorded, table: PresentityTable, offset_s: int
) -> None:
    sent_at = time.time() + offset_s
    consumer.handle([message(1, sent_at=sent_at, State="confirmed", Expires=60)])
    row = rows(table)["alice"]
    assert abs(row.received_time - time.time()) < 10
    assert row.expires == row.received_time + 60 + GRACE_S
    consumer.handle([message(0, sent_at=sent_at)])
    assert b"confirmed" in rows(table)["alice"].body
    consumer.handle([message(2, sent_at=sent_at, State="terminated")])
    assert rows(table) == {}, "it is over"
    assert consumer.returned == [Change.STORED, Change.STALE, Change.STORED]


def test_events_that_seem_too_old_are_dropped_with_a_reason_but_not_ends(table: PresentityTable) -> None:
    """Our clock is an hour ahead of nsqd's: the log must lead to that."""
    consumer = Recorded(FakeHost(), table, max_event_age="60")
    then = time.time() - HOUR_S
    answered = consumer.handle([message(number, sent_at=then, user=f"u{number}") for number in range(3)])
    assert len(answered.finished) == 3
    assert rows(table) == {}
    assert consumer.host.counters[Counter.PUA_TOO_OLD] == 3
    assert texts(consumer.host)[0] == (
        f"an event 3600 s old is dropped (NSQ_MAX_EVENT_AGE): message {0:016x}; do nsqd's clock and ours agree?"
    )
    consumer.handle([message(9, sent_at=then, State="terminated")])
    assert consumer.returned[-1] is Change.STORED
    consumer.handle([message(9, sent_at=time.time() + HOUR_S, user="ahead")])
    assert set(rows(table)) == {"ahead"}


@pytest.mark.parametrize("value", HOSTILE_POSITIONS)
def test_a_position_that_orders_nothing_is_refused_and_costs_nothing(table: PresentityTable, value: object) -> None:
    """A whole number of a million digits would hold up all other events for seconds."""
    consumer = Recorded(FakeHost(), table, pua_order_field="Seq")
    started = time.process_time()
    consumer.handle([message(1, Seq=value)])
    assert time.process_time() - started < 1
    assert rows(table) == {}
    (error,) = consumer.returned
    assert isinstance(error, NsqError)
    assert "orders nothing" in str(error)


# Expires


@pytest.mark.parametrize("expires", [0, -1, "0", "-5", "soon", 1.5, "1e3", "NaN", True, [60], "  ,", "0x10", "٣"])
def test_an_expires_that_means_nothing_is_refused(consumer: Recorded, table: PresentityTable, expires: object) -> None:
    answered: FakeAnswers = consumer.handle([message(1, Expires=expires)])
    assert len(answered.finished) == 1
    assert rows(table) == {}
    (error,) = consumer.returned
    assert isinstance(error, NsqError)
    assert str(error).startswith("Expires is ")


@pytest.mark.parametrize("expires", [1, "1", 60.0, "3600", INT32, 2**31, 10**12, "9" * 400, "", None])
def test_an_expires_that_means_something_ends_after_now_and_fits_the_column(
    consumer: Recorded, table: PresentityTable, expires: object
) -> None:
    consumer.handle([message(1, Expires=expires)])
    row = rows(table)["alice"]
    assert row.received_time < row.expires <= INT32
    assert rows(table)["alice"].expires > 0


# Replays


def replayed(number: int = 0, *, age_s: float, user: str = "alice", **fields: object) -> Delivery:
    """Return the replay of a call's event that nsqd took so many seconds ago."""
    first = message(number, user=user, sent_at=time.time() - age_s, **fields)
    envelope = sealed(first.origin._replace(replays=1, channel="kamailio"))
    return delivery(envelope, number=100 + number, subscription=Subscription("replays", "kamailio"))


@pytest.fixture
def replaying(table: PresentityTable) -> Recorded:
    return Recorded(FakeHost(), table, replay_topic="replays", pua_tombstone="300")


def test_a_replay_is_stored_where_nothing_later_is_and_for_what_is_left_of_its_time(
    replaying: Recorded, table: PresentityTable
) -> None:
    replaying.handle([replayed(age_s=100, Expires="200")])
    row = rows(table)["alice"]
    assert row.position // 10**9 == pytest.approx(time.time() - 100, abs=5)
    assert row.expires - GRACE_S == pytest.approx(time.time() + 100, abs=5)
    assert replaying.host.refreshed == [("sip:alice@example.com", "dialog")]


def test_a_replay_never_comes_over_what_was_later(replaying: Recorded, table: PresentityTable) -> None:
    later = message(sent_at=time.time() - 50, State="confirmed")
    replaying.handle([later])
    before = rows(table)
    replaying.handle([replayed(age_s=60)])
    assert replaying.returned[-1] is Change.STALE
    assert rows(table) == before


def test_a_call_that_ended_and_is_forgotten_is_not_lit_again(replaying: Recorded, table: PresentityTable) -> None:
    """After NSQ_PUA_TOMBSTONE nothing is left of a call that is over, so nobody knows whether this one is."""
    replaying.handle([replayed(age_s=310)])
    assert (rows(table), replaying.host.refreshed) == ({}, [])
    replaying.handle([replayed(1, age_s=290)])
    assert rows(table)["alice"].position // 10**9 == pytest.approx(time.time() - 290, abs=5)


def test_an_old_replay_is_stored_over_what_is_older_still(replaying: Recorded, table: PresentityTable) -> None:
    replaying.handle([message(sent_at=time.time() - 5 * HOUR_S, Event_Package="message-summary", Messages_New="1")])
    replaying.handle([replayed(1, age_s=4 * HOUR_S, Event_Package="message-summary", Messages_New="7")])
    assert b"Voice-Message: 7/0" in rows(table)["alice"].body
    replaying.handle([replayed(2, age_s=4.5 * HOUR_S, Event_Package="message-summary", Messages_New="3")])
    assert b"Voice-Message: 7/0" in rows(table)["alice"].body


def test_a_state_that_has_expired_since_is_not_shown(replaying: Recorded, table: PresentityTable) -> None:
    replaying.handle([replayed(age_s=100, Expires="90")])
    assert rows(table) == {}
    assert replaying.host.counters[Counter.PUA_TOO_OLD] == 1


def test_an_end_is_replayed_however_old_it_is(replaying: Recorded, table: PresentityTable) -> None:
    replaying.handle([message(sent_at=time.time() - 2 * HOUR_S)])
    replaying.handle([replayed(1, age_s=HOUR_S, State="terminated")])
    assert (replaying.returned[-1], rows(table)) == (Change.STORED, {}), "it lives no more"


def test_an_old_replay_is_too_old_as_any_other_event(table: PresentityTable) -> None:
    consumer = Recorded(FakeHost(), table, replay_topic="replays", max_event_age="60")
    consumer.handle([replayed(age_s=70)])
    assert rows(table) == {}
    assert "an event 70 s old is dropped (NSQ_MAX_EVENT_AGE)" in texts(consumer.host)[0]


def test_the_field_of_the_producer_orders_a_replay_too(table: PresentityTable) -> None:
    consumer = Recorded(FakeHost(), table, replay_topic="replays", pua_order_field="Seq")
    consumer.handle([message(sent_at=time.time() - 90, Seq=7)])
    consumer.handle([replayed(1, age_s=60, Seq=6, State="confirmed")])
    assert consumer.returned[-1] is Change.STALE
    consumer.handle([replayed(2, age_s=80, Seq=8, State="confirmed")])
    assert b"confirmed" in rows(table)["alice"].body
