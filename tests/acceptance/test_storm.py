# SPDX-License-Identifier: GPL-2.0-or-later
"""Many changes at once, and events that waited: few NOTIFYs, and always the last state."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.chain import CHANNEL, TOPIC, Chain, Person, event
from tests.support.kamailio import quoted
from tests.support.notify import Notify
from tests.support.until import until

INTERVAL_S = 1.5
MAX_AGE_S = 1

#: Handlers that hold up the consumer, from the moment at which a named pipe can be opened until it is closed.
GATED = """
@event_route("nsq:consumer-event-test-gate")
def gate(self, event):
    Path({gate!r}).read_bytes()
"""


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain that leaves time between two NOTIFYs for one presentity."""
    defines = {"NSQ_NOTIFY_INTERVAL": quoted(INTERVAL_S)}
    with Chain("native", tmp_path_factory.mktemp("paced"), defines=defines) as chain:
        yield chain
    assert chain.complaints() == []


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain that drops events that waited for too long."""
    with Chain("native", tmp_path_factory.mktemp("dated"), defines={"NSQ_MAX_EVENT_AGE": MAX_AGE_S}) as chain:
        yield chain
    assert chain.complaints(("kemi-nsq: an event [0-9]+ s old is dropped",)) == []


def notes(notifies: tuple[Notify, ...]) -> list[str | None]:
    return [notify.pidf.note if notify.body else None for notify in notifies]


def test_the_first_change_leaves_at_once_and_the_last_one_arrives(paced: Chain) -> None:
    person = Person(chain=paced)
    with paced.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "presence")
        began = time.monotonic()  # the first change leaves after that, and on a busy machine comes still later
        person.publish("presence", State="Busy")
        lamp.wait(lambda notify: notify.pidf.note == "Busy", what="the first change")
        for _ in range(10):
            for state in ("Away", "Available", "DND"):
                person.publish("presence", State=state)
        person.publish("presence", State="Offline")
        last = lamp.wait(lambda notify: notify.pidf.note == "Offline", what="the last change")
        paced.drain()
        assert paced.counter("received") == 32
        assert last.received_at - began >= INTERVAL_S * 0.9
        # Kamailio's initial NOTIFY has no body where nothing is known.
        assert len(lamp.notifies) == 3, notes(lamp.notifies)


def test_the_end_of_a_call_does_not_wait(paced: Chain) -> None:
    person = Person(chain=paced)
    with paced.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        for state in ("early", "confirmed", "terminated"):
            person.call(state)
            paced.drain()
        end = lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the end", after=1)
        first = lamp.notifies[1]
        assert end.received_at - first.received_at < INTERVAL_S / 2
        assert [notify.dialog_info.states[0] for notify in lamp.notifies[1:]] == ["early", "terminated"]


def test_one_presentity_does_not_wait_for_another(paced: Chain) -> None:
    people = [Person(chain=paced) for _ in range(20)]
    with paced.watcher() as watcher:
        lamps = watcher.subscribe_many([person.uri for person in people], "dialog")
        for person in people:
            person.call("early")
        firsts = [lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="early") for lamp in lamps]
        assert max(each.received_at for each in firsts) - firsts[0].received_at < INTERVAL_S / 2


def test_a_backlog_becomes_one_notify_for_each_presentity(tmp_path: Path) -> None:
    """What comes while the consumer is busy is handled together."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "gated.py").write_text(with_handlers(GATED.format(gate=str(gate))))
    with custom_chain("kemi", tmp_path, script="gated.py", NSQ_MAX_IN_FLIGHT=100) as chain, chain.watcher() as watcher:
        people = [Person(chain=chain) for _ in range(30)]
        lamps = watcher.subscribe_many([person.uri for person in people], "dialog")
        until(lambda: all(lamp.notifies for lamp in lamps), what="the initial NOTIFYs")
        chain.publish(b'{"Event-Category": "test", "Event-Name": "gate"}')
        held = until(lambda: os.open(gate, os.O_WRONLY | os.O_NONBLOCK), what="the consumer to be held up")
        backlog = [
            event("dialog", person.user, **person.call_fields(state))
            for state in ("early", "confirmed", "terminated")
            for person in people
        ]
        chain.nsqd.publish_many(TOPIC, backlog)
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).in_flight == 1 + len(backlog), what="the backlog to be here")
        os.close(held)
        chain.drain()
        for lamp in lamps:
            lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the end", after=1)
        assert [len(lamp.notifies) for lamp in lamps] == [2] * len(people)
    assert chain.complaints() == []


def test_old_events_are_dropped_unless_they_end_a_call(dated: Chain) -> None:
    old, ended, fresh = (Person(chain=dated) for _ in range(3))
    with dated.watcher() as watcher:
        lamps = {person: watcher.subscribe(person.uri, "dialog") for person in (old, ended, fresh)}
        until(lambda: all(lamp.notifies for lamp in lamps.values()), what="the initial NOTIFYs")
        ended.call("confirmed")
        lamps[ended].wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="a call")
        dated.drain()  # the NOTIFY leaves before the FIN
        dated.kamailio.stop()
        old.call("early")
        ended.call("terminated")
        published_at = time.monotonic()
        until(lambda: time.monotonic() - published_at > MAX_AGE_S, what="the events to be too old")
        dated.kamailio.start()
        fresh.call("early")
        lamps[fresh].wait(lambda notify: notify.dialog_info.states == ("early",), what="a fresh event")
        lamps[ended].wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the end", after=2)
        dated.drain()
        assert len(lamps[old].notifies) == 1
        assert dated.counter("pua_too_old") == 1
