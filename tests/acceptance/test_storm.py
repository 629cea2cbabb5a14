# SPDX-License-Identifier: GPL-2.0-or-later
"""Many changes at once, and events that waited: few NOTIFYs, and always the last state."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import complaints
from tests.support.chain import TOPIC, Chain, Person, event
from tests.support.kamailio import quoted
from tests.support.notify import Notify
from tests.support.until import until

INTERVAL_S = 1.5
MAX_AGE_S = 1


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain that leaves time between two NOTIFYs for one presentity."""
    defines = {"NSQ_NOTIFY_INTERVAL": quoted(INTERVAL_S)}
    with Chain("native", tmp_path_factory.mktemp("paced"), defines=defines) as chain:
        yield chain
    assert complaints(chain) == []


@pytest.fixture(scope="module")
def backlogged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain that takes many events at once and drops those that waited for too long."""
    defines: dict[str, str | int] = {"NSQ_MAX_IN_FLIGHT": 100, "NSQ_MAX_EVENT_AGE": MAX_AGE_S}
    with Chain("native", tmp_path_factory.mktemp("backlogged"), defines=defines) as chain:
        yield chain
    assert complaints(chain, ("kemi-nsq: an event [0-9]+ s old is dropped",)) == []


def notes(notifies: tuple[Notify, ...]) -> list[str | None]:
    return [notify.pidf.note if notify.body else None for notify in notifies]


def test_the_first_change_leaves_at_once_and_the_last_one_arrives(paced: Chain) -> None:
    person = Person(chain=paced)
    with paced.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "presence")
        person.publish("presence", State="Busy")
        first = lamp.wait(lambda notify: notify.pidf.note == "Busy", what="the first change")
        for _ in range(10):
            for state in ("Away", "Available", "DND"):
                person.publish("presence", State=state)
        person.publish("presence", State="Offline")
        last = lamp.wait(lambda notify: notify.pidf.note == "Offline", what="the last change")
        paced.drain()
        assert paced.counter("received") == 32
        assert last.received_at - first.received_at >= INTERVAL_S * 0.9
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


def test_a_backlog_becomes_one_notify_for_each_presentity(backlogged: Chain) -> None:
    """Subscriptions outlive the restart; what was published meanwhile is handled together."""
    people = [Person(chain=backlogged) for _ in range(30)]
    with backlogged.watcher() as watcher:
        lamps = watcher.subscribe_many([person.uri for person in people], "dialog")
        until(lambda: all(lamp.notifies for lamp in lamps), what="the initial NOTIFYs")
        backlogged.kamailio.stop()
        backlogged.nsqd.publish_many(
            TOPIC,
            [
                event("dialog", person.user, **person.call_fields(state))
                for state in ("early", "confirmed", "terminated")
                for person in people
            ],
        )
        backlogged.kamailio.start()
        backlogged.drain()
        for lamp in lamps:
            lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the end", after=1)
        # 90 events in one batch of 100; the first may have been handled before the others had come.
        assert sum(len(lamp.notifies) - 1 for lamp in lamps) <= len(people) + 1


def test_old_events_are_dropped_unless_they_end_a_call(backlogged: Chain) -> None:
    old, ended, fresh = (Person(chain=backlogged) for _ in range(3))
    with backlogged.watcher() as watcher:
        lamps = {person: watcher.subscribe(person.uri, "dialog") for person in (old, ended, fresh)}
        until(lambda: all(lamp.notifies for lamp in lamps.values()), what="the initial NOTIFYs")
        ended.call("confirmed")
        lamps[ended].wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="a call")
        backlogged.kamailio.stop()
        old.call("early")
        ended.call("terminated")
        published_at = time.monotonic()
        until(lambda: time.monotonic() - published_at > MAX_AGE_S, what="the events to be too old")
        backlogged.kamailio.start()
        fresh.call("early")
        lamps[fresh].wait(lambda notify: notify.dialog_info.states == ("early",), what="a fresh event")
        lamps[ended].wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the end", after=2)
        backlogged.drain()
        assert len(lamps[old].notifies) == 1
        assert backlogged.counter("pua_too_old") == 1
