# SPDX-License-Identifier: GPL-2.0-or-later
"""The ends of states: by expiry, by reset; who is told, what stays, and what comes after."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from kemi_nsq.clock import Clock
from kemi_nsq.consumer import outage
from kemi_nsq.consumer.chores import Chores
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError, PayloadError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.presence import expiry as module
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.due import Due
from kemi_nsq.presence.history import Cause
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.row import GRACE_S, Order, Row
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.testing import FakeHost
from tests.support.gates import TestedGate
from tests.support.settings import settings
from tests.support.wired import wired

TOMBSTONE_S = 100
START = 1_700_000_000
ALICE, BOB = "sip:alice@example.com", "sip:bob@example.net"


class Stage:
    """An `Expiry` on a table of its own, at a time that the test sets."""

    def __init__(self, table: PresentityTable, **values: str) -> None:
        self.host = FakeHost()
        self.table = table
        self.now = START
        chosen = settings(pua_tombstone=str(TOMBSTONE_S), **values)
        parts = wired(self.host, chosen, table, Clock(wall=lambda: self.now, wall_ns=lambda: self.now * 10**9))
        self.writer, self.expiry = parts.writer, parts.expiry
        self.gate = TestedGate(self.host)
        probe = Probe(chosen, Publisher(chosen), None)
        self.chores = Chores(self.host, watchers=parts.watchers, expiry=parts.expiry, probe=probe, gate=self.gate)
        self.expiry.sweep()  # the first one, as after a start

    def row(self, user: str = ALICE, *, position: int = START, **changes: JsonValue) -> Row:
        fields: dict[str, JsonValue] = {"Event-Package": "presence", "From": user, "State": "busy", "Expires": 60}
        fields |= {name.replace("_", "-"): value for name, value in changes.items()}
        if fields["Event-Package"] == "dialog":
            fields |= {"To": "sip:x@y", "Call-ID": "c1"}
        made = self.writer.row(fields, Order(position=position, message_id="0" * 16), sent_at=None)
        assert made is not None
        return made

    def publish(self, user: str = ALICE, *, position: int = START, **changes: JsonValue) -> Change:
        (change,) = self.writer.commit([self.row(user, position=position, **changes)])
        return change

    def bodies(self) -> dict[str, bytes]:
        """Return the documents of the states that are not over by their users."""
        return {row.username: row.body for _, row in self.table.search.find()}


@pytest.fixture
def stage(table: PresentityTable) -> Stage:
    return Stage(table)


def reset(stage: Stage, scope: str, *, position: int = 0, spare_later: bool = False) -> int:
    return stage.expiry.reset(scope, position=position, spare_later=spare_later)


# Expiry


def test_a_state_ends_when_its_time_is_over_and_its_watchers_are_told_once(stage: Stage) -> None:
    stage.publish()
    stage.publish(Event_Package="dialog", State="confirmed", Expires=120)
    stage.host.refreshed.clear()
    stage.now += 59
    stage.expiry.sweep()
    assert stage.host.refreshed == []
    stage.now += 1
    for _ in range(3):
        stage.expiry.sweep()
    assert stage.host.refreshed == [(ALICE, "presence")]
    assert stage.host.counters[Counter.PUA_ENDED] == 1
    assert [row.event for _, row in stage.table.search.find()] == ["dialog"]


@pytest.mark.parametrize(
    ("package", "state", "shown"),
    [
        ("dialog", "confirmed", b"<state>terminated</state>"),
        ("presence", "busy", b"<basic>closed</basic>"),
        ("message-summary", "", b"Messages-Waiting: no"),
    ],
)
def test_the_end_is_a_full_document_that_stays_as_long_as_a_tombstone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, package: str, state: str, shown: bytes
) -> None:
    stage.publish(Event_Package=package, State=state, Messages_New=3)
    ends: list[Row] = []
    commit = stage.writer.commit

    def kept(rows: Sequence[Row], cause: Cause) -> list[Change]:
        ends.extend(rows)
        return commit(rows, cause)

    monkeypatch.setattr(stage.writer, "commit", kept)
    stage.now += 60
    stage.expiry.sweep()
    (end,) = ends
    assert shown in end.body
    assert end.is_over, "an end is urgent"
    assert (end.received_time, end.expires) == (stage.now, stage.now + TOMBSTONE_S + GRACE_S)


def test_a_tombstone_goes_in_silence_and_only_when_its_time_is_over(stage: Stage) -> None:
    stage.publish(Event_Package="dialog", State="terminated")
    stage.host.refreshed.clear()
    stage.now += TOMBSTONE_S - 1
    stage.expiry.sweep()
    assert stage.publish(Event_Package="dialog", State="early", position=START - 1) is Change.STALE
    stage.now += 1
    stage.expiry.sweep()
    assert stage.host.refreshed == []
    assert stage.publish(Event_Package="dialog", State="early", position=START - 1) is Change.STORED


def test_what_is_published_after_the_end_wins_whatever_our_clock_says(stage: Stage) -> None:
    """The clock of nsqd may be an hour behind ours, or ahead: only its own timestamps are compared."""
    stage.publish(position=START * 10**9 - 3600 * 10**9)
    stage.now += 60
    stage.expiry.sweep()
    assert stage.publish(position=START * 10**9 - 3600 * 10**9 + 1) is Change.STORED
    assert b"<basic>open</basic>" in stage.bodies()["alice"]


def test_the_same_event_once_more_does_not_revive_what_ended(stage: Stage) -> None:
    stage.publish()
    stage.now += 60
    stage.expiry.sweep()
    assert stage.publish() is Change.STALE
    assert stage.bodies() == {}


def test_a_state_that_is_renewed_while_it_is_swept_stays(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.publish()
    stage.now += 60
    seen = stage.table.search.expiring(stage.now + GRACE_S)
    assert len(seen) == 1
    stage.publish(position=START + 1)
    pages = [seen, []]
    monkeypatch.setattr(stage.table.search, "expiring", lambda until: pages.pop(0))
    stage.expiry.sweep()
    assert b"<basic>open</basic>" in stage.bodies()["alice"]
    assert stage.host.counters[Counter.PUA_ENDED] == 0


def test_two_processes_that_sweep_at_once_end_it_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.publish()
    stage.now += 60
    seen = stage.table.search.expiring(stage.now + GRACE_S)
    stage.expiry.sweep()
    stage.host.refreshed.clear()
    pages = [seen, []]
    monkeypatch.setattr(stage.table.search, "expiring", lambda until: pages.pop(0))
    stage.expiry.sweep()
    assert stage.host.refreshed == []
    assert stage.host.counters[Counter.PUA_ENDED] == 1


def test_many_states_end_some_at_a_time_and_the_rest_is_due_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ("due", "expiry"):
        monkeypatch.setattr(f"kemi_nsq.presence.{where}.AT_ONCE", 3)
    monkeypatch.setattr(stage.table.search, "_due", Due(stage.table._table))
    users = [f"sip:u{number}@example.com" for number in range(10)]
    for user in users:
        stage.publish(user)
    stage.host.refreshed.clear()
    stage.now += 60
    for told in (3, 6, 9, 10):
        due = stage.chores.next_due()
        assert due is not None
        assert due <= time.monotonic()
        stage.chores.tick()
        assert len(stage.host.refreshed) == told
    due = stage.chores.next_due()
    assert due is not None
    assert due > time.monotonic()
    assert sorted(stage.host.refreshed) == sorted((user, "presence") for user in users)


def test_a_document_that_cannot_be_ended_is_reported_and_holds_up_nobody(stage: Stage) -> None:
    stage.table.save(stage.row(BOB)._replace(body=b"<not our document"))
    stage.publish()
    stage.now += 60
    stage.expiry.sweep()
    stage.expiry.sweep()
    assert stage.bodies() == {}
    (line,) = [text for _, text in stage.host.lines]
    assert line.startswith(f"row of {BOB} (presence, ")


# Reset


def test_scopes(stage: Stage) -> None:
    for scope, left in {
        f"user {ALICE}": {"bob", "carol"},
        "realm example.com": {"bob"},
        "sender sip:pbx@one": {"carol"},
        "sender sip:pbx@none": {"alice", "bob", "carol"},
        "user sip:alice@example.net": {"alice", "bob", "carol"},
        "user <sip:alice@example.com:5070;transport=tcp>": {"bob", "carol"},
        " all ": set(),
    }.items():
        stage.now += 1
        stage.publish(ALICE, position=stage.now, Sender_URI="sip:pbx@one", ETag="a")
        stage.publish(BOB, position=stage.now, Sender_URI="sip:pbx@one", ETag="b")
        stage.publish("sip:carol@example.com", position=stage.now, Sender_URI="sip:pbx@two", ETag="c")
        assert reset(stage, scope, position=stage.now) == 3 - len(left), scope
        assert set(stage.bodies()) == left, scope


@pytest.mark.parametrize(
    "scope", ["", "all states", "sender", "sender ", "user", "realm", "user http://x", "ALL", "x y"]
)
def test_what_is_no_scope_ends_nothing(stage: Stage, scope: str) -> None:
    stage.publish()
    with pytest.raises(PayloadError):
        reset(stage, scope)
    assert set(stage.bodies()) == {"alice"}


@pytest.mark.parametrize("scope", ["sender ' OR '1'='1", "realm %", "sender %' --", "user sip:%25@example.com"])
def test_a_scope_is_data_not_sql(stage: Stage, scope: str) -> None:
    stage.publish()
    assert reset(stage, scope) == 0
    assert set(stage.bodies()) == {"alice"}


def test_a_reset_counts_from_its_own_position(stage: Stage) -> None:
    stage.publish(position=5)
    stage.publish(BOB, position=7)
    assert reset(stage, "all", position=6, spare_later=True) == 1
    assert set(stage.bodies()) == {"bob"}, "published after the reset"
    assert stage.publish(position=6) is Change.STALE, "published before the reset"
    assert stage.publish(position=7) is Change.STORED


def test_what_a_sender_said_before_its_reset_and_comes_only_after_it_shows_nothing(stage: Stage) -> None:
    assert reset(stage, f"sender {ALICE}", position=6, spare_later=True) == 0
    assert stage.publish(position=6) is Change.STALE, "nsqd delivers in any order"
    assert stage.publish(BOB, position=6) is Change.STORED, "another sender"
    assert stage.publish(position=7) is Change.STORED, "said after the reset"
    assert reset(stage, f"sender {ALICE}", position=5, spare_later=True) == 0, "an older reset, which came late"
    assert stage.publish(position=6, Event_Package="dialog", State="confirmed") is Change.STALE


def test_a_reset_is_forgotten_with_its_tombstones(stage: Stage) -> None:
    reset(stage, f"sender {ALICE}", position=6, spare_later=True)
    stage.now += TOMBSTONE_S + 2 * GRACE_S
    stage.expiry.sweep()
    assert stage.publish(position=6) is Change.STORED


def test_a_reset_pages_through_all(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.presence.due.PAGE", 3)
    monkeypatch.setattr(stage.table, "_due", Due(stage.table._table))
    for number in range(10):
        stage.publish(f"sip:u{number}@example.com")
    stage.host.refreshed.clear()
    assert reset(stage, "all") == 10
    assert len(stage.host.refreshed) == 10
    assert reset(stage, "all") == 0, "what is over does not end again"


# A database that fails


def test_a_database_that_fails_is_for_the_caller(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.publish()
    stage.now += 60

    def fail(rows: object) -> list[Change]:
        raise DatabaseError("it was told to")

    monkeypatch.setattr(stage.table, "save_all", fail)
    with pytest.raises(DatabaseError):
        stage.expiry.sweep()
    with pytest.raises(DatabaseError):
        reset(stage, "all")
    assert stage.host.counters[Counter.PUA_ENDED] == 0
    monkeypatch.undo()
    assert set(stage.bodies()) == {"alice"}


def test_the_next_sweep_makes_up_for_one_that_failed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.publish()
    stage.now += 60
    failures = [DatabaseError("the database is locked")]
    expiring = stage.table.search.expiring

    def fail_once(until: int) -> list[Row]:
        if failures:
            raise failures.pop()
        return expiring(until)

    monkeypatch.setattr(stage.table.search, "expiring", fail_once)
    stage.chores.tick()
    assert [text for _, text in stage.host.lines] == [
        "the database fails: the database is locked; expiry and hiding wait"
    ]
    assert stage.host.counters[Counter.PUA_DATABASE_ERROR] == 1
    stage.gate.pass_time(outage.RELAPSE_S + 1)
    due = stage.chores.next_due()
    assert due is not None
    assert time.monotonic() < due <= time.monotonic() + module.SWEEP_INTERVAL_S
    stage.chores.tick()
    assert set(stage.bodies()) == {"alice"}, "it is not due yet"
    monkeypatch.setattr(stage.chores, "_sweep_due", time.monotonic())
    stage.chores.tick()
    assert stage.bodies() == {}
