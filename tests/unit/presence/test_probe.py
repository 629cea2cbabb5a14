# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes: what they say, and how rarely."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.errors import ConnectionLost, DatabaseError, PayloadError
from kemi_nsq.presence import probe as module
from kemi_nsq.presence.probe import INTERVAL_S, Probe
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.testing import FakeHost
from tests.support.clock import SetClock
from tests.support.doubles import FakePublisher
from tests.support.histories import Said, deliveries
from tests.support.presence_consumers import PresenceConsumer
from tests.support.settings import settings

ALICE = "sip:alice@example.com"
PROBING = settings(probe_topic="probes", node="n1")


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def probe(publisher: FakePublisher, table: PresentityTable, clock: SetClock) -> Probe:
    return Probe(PROBING, publisher, table, clock.clock)


def test_a_probe_of_all_says_who_asks(probe: Probe, publisher: FakePublisher) -> None:
    assert probe.everybody()
    (sent,) = publisher.sent
    assert sent.topic == "probes"
    assert json.loads(sent.body) == {"Event-Category": "presence", "Event-Name": "probe", "Node": "n1"}


def test_a_probe_of_one_names_the_presentity(probe: Probe, publisher: FakePublisher) -> None:
    assert probe.one('"A" <sip:alice@example.com;transport=tcp>', "dialog")
    assert json.loads(publisher.sent[0].body) == {
        "Event-Category": "presence",
        "Event-Name": "probe",
        "Node": "n1",
        "Event-Package": "dialog",
        "Presentity": ALICE,
        "Presentity-User": "alice",
        "Presentity-Realm": "example.com",
    }


@given(st.floats(0, 3e7))
def test_the_first_leaves_whatever_the_clock_says(now: float) -> None:
    assert Probe(PROBING, FakePublisher(), None, SetClock(now).clock).everybody()


def test_each_leaves_once_in_the_interval(probe: Probe, publisher: FakePublisher, clock: SetClock) -> None:
    asked = [(ALICE, "dialog"), (ALICE, "presence"), ("sip:bob@example.com", "dialog")]
    for now, left in ((1000.0, True), (1000.0 + INTERVAL_S - 0.1, False), (1000.0 + INTERVAL_S, True)):
        clock.monotonic = now
        assert [probe.one(*each) for each in asked] == [left] * 3
        assert probe.everybody() is left
    assert len(publisher.sent) == 8


def test_who_has_a_state_is_not_asked_for(probe: Probe, table: PresentityTable, publisher: FakePublisher) -> None:
    fields = {"Event-Package": "presence", "From": ALICE, "State": "busy"}
    said = Said(thing=(), key=(ALICE, "presence"), position=0, rank=0, shown=(), fields=fields)
    PresenceConsumer(FakeHost(), table).handle(deliveries([said], None))
    assert not probe.one(ALICE, "presence")
    assert probe.one(ALICE, "dialog")
    assert len(publisher.sent) == 1


def test_one_that_no_nsqd_took_is_tried_again_at_once(probe: Probe, publisher: FakePublisher) -> None:
    publisher.failure = ConnectionLost("nobody")
    for ask in (probe.everybody, lambda: probe.one(ALICE, "dialog")):
        with pytest.raises(ConnectionLost):
            ask()
    publisher.failure = None
    assert probe.everybody()
    assert probe.one(ALICE, "dialog")


def test_without_a_topic_nobody_is_asked(publisher: FakePublisher, table: PresentityTable) -> None:
    silent = Probe(settings(), publisher, table)
    assert not silent.everybody()
    assert not silent.one("no uri at all", "dialog")
    assert publisher.sent == []


def test_without_a_table_there_is_no_telling_who_is_unknown(publisher: FakePublisher) -> None:
    assert not Probe(PROBING, publisher, None).one(ALICE, "dialog")


@pytest.mark.parametrize("presentity", ["", "alice@", "http://x", "sip:alice@a b", "sip:alice@exa\nmple.com"])
def test_what_is_no_uri_is_refused(probe: Probe, publisher: FakePublisher, presentity: str) -> None:
    with pytest.raises(PayloadError) as caught:
        probe.one(presentity, "dialog")
    assert len(str(caught.value).splitlines()) == 1
    assert publisher.sent == []


def test_a_table_that_cannot_be_read(publisher: FakePublisher, tmp_path: Path) -> None:
    with (
        closing(PresentityTable(f"sqlite+pysqlite:///{tmp_path}/none/x.db", "presentity")) as table,
        pytest.raises(DatabaseError),
    ):
        Probe(PROBING, publisher, table).one(ALICE, "dialog")
    assert publisher.sent == []


def test_what_is_remembered_is_bounded(probe: Probe, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    for number in range(5):
        clock.monotonic += 1
        assert probe.one(f"sip:u{number}@example.com", "dialog")
    assert len(probe._asked) == 3
    assert not probe.one("sip:u4@example.com", "dialog")
    assert probe.one("sip:u0@example.com", "dialog"), "the oldest was forgotten"
