# SPDX-License-Identifier: GPL-2.0-or-later
"""Outages against real nsqd: what waits is given back once, comes nowhere meanwhile, and then comes soon."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError
from kemi_nsq.event import Event
from kemi_nsq.runtime.page import Fact
from tests.support.chain import event as presence_event
from tests.support.consuming import Consuming, numbered
from tests.support.database import create_database
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.until import until

TOPIC, OTHER, CHANNEL = "events", "billing", "kamailio"
PAIRS = f"{TOPIC}:{CHANNEL},{OTHER}:{CHANNEL}"
EVENTS = 300
#: What waits is to be consumed so soon after the end of an outage; the machine of the tests may be slow.
PROMISED_S, PATIENCE_S = 5.0, 15.0


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    """Return an nsqd that has the channels from its start: into new ones it looks for delays only every 5 seconds."""
    with Nsqd(tmp_path / "nsqd", msg_timeout="5m") as server:
        for topic in (TOPIC, OTHER):
            server.create_topic(topic)
            server.create_channel(topic, CHANNEL)
        server.stop()
        server.start()
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create_database(tmp_path / "kamailio.db")


@contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Hold the one lock for writers of an SQLite file; yield what gives it back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other.rollback


class PresenceConsuming(Consuming):
    """A consumer whose route publishes presence; events of another topic need no database."""

    def __init__(self, nsqd: Nsqd | None, path: Path, **values: str) -> None:
        super().__init__(
            nsqd, self._publish, db_url=f"sqlite:///{path}", db_timeout="0.5", topic_channel=PAIRS, **values
        )

    def _publish(self, event: Event) -> None:
        if event.topic == TOPIC:
            with suppress(NsqError):  # as `plugin` does
                self.parts.pua.publish(None)


def calls(count: int = EVENTS) -> list[bytes]:
    fields = {"To": "sip:bob@example.com", "Call_ID": "c", "State": "confirmed"}
    return [presence_event("dialog", f"user{number}", **fields) for number in range(count)]


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM presentity").fetchone()[0])


def ready_counts(server: Nsqd, topic: str) -> list[int]:
    """Return the RDY count of each client of a channel, as nsqd sees it."""
    found = json.loads(server.http("GET", "/stats", format="json", topic=topic, channel=CHANNEL))
    return [client["ready_count"] for each in found["topics"][0]["channels"] for client in each["clients"]]


def rest(seconds: float) -> None:
    """Let time pass, in which something must not happen."""
    enough = time.monotonic() + seconds
    until(lambda: time.monotonic() >= enough, timeout_s=seconds + 5, what="time to pass")


def test_what_waits_is_given_back_once_and_consumed_soon_after_the_end(nsqd: Nsqd, path: Path) -> None:
    with locked(path) as release, PresenceConsuming(nsqd, path, max_in_flight="50", max_attempts="2") as consuming:
        nsqd.publish_many(TOPIC, calls())
        until(lambda: nsqd.channel(TOPIC, CHANNEL).requeued, what="something to be given back")
        until(lambda: ready_counts(nsqd, TOPIC) == [0], what="RDY 0")
        until(lambda: nsqd.channel(TOPIC, CHANNEL).in_flight == 0, what="everything to be given back")
        given_back = nsqd.channel(TOPIC, CHANNEL).requeued
        assert 0 < given_back <= 50 + 1, "one may have been under way"
        rest(3)
        assert nsqd.channel(TOPIC, CHANNEL).requeued - given_back <= 1, "what is given back does not come here again"
        assert nsqd.channel(TOPIC, CHANNEL).depth == EVENTS
        assert ready_counts(nsqd, OTHER) == [50]
        nsqd.publish(OTHER, numbered(1))
        until(lambda: any(event.topic == OTHER for event in consuming.events), what="an event that needs no database")
        assert "database is locked" in consuming.host.page.shown(Fact.DATABASE)
        release()
        released_at = time.monotonic()
        until(lambda: nsqd.channel(TOPIC, CHANNEL).drained, timeout_s=PATIENCE_S, what="all to be consumed")
        print(f"{EVENTS} events were consumed {time.monotonic() - released_at:.2f} s after the end")
        assert rows(path) == EVENTS
        assert consuming.host.page.shown(Fact.DATABASE) == ""
        assert consuming.host.counters[Counter.OUTAGES] == 1
        assert {Counter.GAVE_UP, Counter.REQUEUED, Counter.STUCK}.isdisjoint(consuming.host.counters)
        about_it = [line for line in consuming.lines if "database" in line]
        assert len(about_it) == 2, about_it


def test_attempts_above_the_limit_cost_nothing(nsqd: Nsqd, path: Path) -> None:
    """Each Kamailio that starts within an outage takes some events and gives them back: nsqd counts deliveries."""
    limits = {"max_attempts": "2", "dead_letter_topic": "dead"}
    with locked(path):
        nsqd.publish_many(TOPIC, calls(3))
        for _ in range(4):
            with PresenceConsuming(nsqd, path, **limits) as consuming:
                until(partial(consuming.host.counters.get, Counter.OUTAGES), what="the outage")
                until(lambda: nsqd.channel(TOPIC, CHANNEL).in_flight == 0, what="all to be given back")
    with PresenceConsuming(nsqd, path, **limits) as consuming:
        until(lambda: nsqd.channel(TOPIC, CHANNEL).drained, timeout_s=PATIENCE_S, what="all to be consumed")
    assert min(event.attempts for event in consuming.events) > 2
    assert rows(path) == 3
    assert Counter.GAVE_UP not in consuming.host.counters


def test_a_connection_that_is_made_in_an_outage_takes_nothing(nsqd: Nsqd, path: Path) -> None:
    with locked(path) as release, PresenceConsuming(nsqd, path) as consuming:
        nsqd.publish_many(TOPIC, calls(3))
        until(lambda: ready_counts(nsqd, TOPIC) == [0], what="RDY 0")
        nsqd.stop()
        nsqd.start()
        until(lambda: ready_counts(nsqd, OTHER) == [5], timeout_s=15, what="the connections")
        until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the other connection")
        rest(1)
        assert ready_counts(nsqd, TOPIC) == [0]
        release()
        until(lambda: nsqd.channel(TOPIC, CHANNEL).drained, timeout_s=PATIENCE_S, what="all to be consumed")
        assert rows(path) == 3
        assert Counter.RESTARTED not in consuming.host.counters


def test_what_is_given_back_goes_to_another_consumer_at_once(nsqd: Nsqd, path: Path, tmp_path: Path) -> None:
    whole = create_database(tmp_path / "whole.db")
    with locked(path), PresenceConsuming(nsqd, path), PresenceConsuming(nsqd, whole):
        until(lambda: ready_counts(nsqd, TOPIC) == [5, 5], what="both")
        nsqd.publish_many(TOPIC, calls())
        until(lambda: nsqd.channel(TOPIC, CHANNEL).drained, timeout_s=PATIENCE_S, what="all to be consumed")
        assert sorted(ready_counts(nsqd, TOPIC)) == [0, 5]
        assert rows(whole) == EVENTS


def test_a_consumer_that_starts_anew_goes_on_with_its_outage(
    nsqd: Nsqd, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with locked(path) as release, PresenceConsuming(nsqd, path) as consuming:
        nsqd.publish_many(TOPIC, calls(3))
        until(lambda: ready_counts(nsqd, TOPIC) == [0], what="RDY 0")
        with monkeypatch.context() as patched:
            patched.setattr(consuming.parts.supervisor._handling, "handle", interrupt)
            nsqd.publish(OTHER, numbered(1))
            until(lambda: consuming.host.counters[Counter.RESTARTED] >= 1, what="a restart")
        until(lambda: ready_counts(nsqd, OTHER) == [5], timeout_s=15, what="the connections")
        rest(1)
        assert ready_counts(nsqd, TOPIC) == [0]
        release()
        until(lambda: nsqd.channel(TOPIC, CHANNEL).drained, timeout_s=PATIENCE_S, what="all to be consumed")


def test_dead_letters_wait_for_the_nsqd_that_takes_them(tmp_path: Path, path: Path) -> None:
    with (
        Nsqlookupd(tmp_path / "lookupd") as lookupd,
        Nsqd(tmp_path / "events", lookupd_tcp_address=lookupd.tcp_address) as events,
        Nsqd(tmp_path / "letters") as letters,
    ):
        events.create_topic(TOPIC)
        events.create_channel(TOPIC, CHANNEL)
        letters.stop()
        values = {"lookupd_address": lookupd.http_address, "nsqd_tcp_address": letters.tcp_address}
        with PresenceConsuming(None, path, dead_letter_topic="dead", max_attempts="2", **values) as consuming:
            events.publish_many(TOPIC, [b"bad"] * 20)
            until(lambda: ready_counts(events, TOPIC) == [0], timeout_s=15, what="RDY 0")
            events.publish(OTHER, numbered(1))
            until(lambda: len(consuming.events) == 1, what="an event of another topic")
            rest(2)
            assert events.channel(TOPIC, CHANNEL).depth == 20
            assert "Connection refused" in consuming.host.page.shown(Fact.DEAD_LETTERS)
            letters.start()
            started_at = time.monotonic()
            until(lambda: letters.topic("dead")["depth"] == 20, timeout_s=PATIENCE_S, what="all dead letters")
            print(f"20 dead letters were there {time.monotonic() - started_at:.2f} s after the end")
            until(lambda: events.channel(TOPIC, CHANNEL).drained, what="all to be finished")
            assert consuming.host.counters[Counter.INVALID] == 20
            about_it = [line for line in consuming.lines if "nsqd takes" in line]
            assert len(about_it) == 2, about_it


def test_a_route_that_fails_for_every_event_backs_off_and_comes_back(nsqd: Nsqd) -> None:
    code = [-1]
    with Consuming(nsqd, lambda _: code[0], topic_channel=PAIRS, backoff_max="1", max_attempts="3") as consuming:
        nsqd.publish_many(TOPIC, map(numbered, range(50)))
        until(lambda: ready_counts(nsqd, TOPIC) == [0], what="RDY 0")
        rest(5)
        assert len(consuming.events) <= 5 + 5 * 2, "one a second is tried"
        assert Counter.GAVE_UP not in consuming.host.counters
        code[0] = 1
        until(lambda: ready_counts(nsqd, TOPIC) == [5], what="RDY as before")
        until(lambda: nsqd.channel(TOPIC, CHANNEL).drained, timeout_s=PATIENCE_S, what="all to be consumed")
        assert consuming.host.counters[Counter.BACKOFFS] == 1
