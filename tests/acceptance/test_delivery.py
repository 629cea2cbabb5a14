# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of messages when there are several topics or processes, and when a part is missing for a while."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import custom_chain
from tests.support.chain import CHANNEL, TOPIC, Chain, Person, event
from tests.support.database import rows
from tests.support.process import is_running
from tests.support.until import until

SLOW = b'{"Event-Category": "test", "Event-Name": "slow"}'


def states(chain: Chain, person: Person) -> list[str]:
    """Return the states of the person's dialogs in the table, oldest row first."""
    bodies = [
        bytes(str(row["body"]), "utf-8") for row in rows(chain.database, "dialog") if row["username"] == person.user
    ]
    return [body.decode().partition("<state>")[2].partition("<")[0] for body in bodies]


def shown(chain: Chain, person: Person) -> None:
    """Check that an event becomes a NOTIFY."""
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early")
        lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="early", timeout_s=15)


def test_topic_and_channel_are_made_at_start(kind: str, tmp_path: Path) -> None:
    """So that a producer's first event is kept for us, whoever comes first."""
    with Chain(kind, tmp_path, defines={"NSQ_LISTEN_TOPIC": "calls", "NSQ_LISTEN_CHANNEL": "node-1"}) as chain:
        until(lambda: chain.nsqd.channel("calls", "node-1").clients == 1, what="the consumer")
        person = Person(chain=chain)
        chain.publish(event("dialog", person.user, **person.call_fields("early")), topic="calls")
        until(lambda: states(chain, person) == ["early"], what="a row")


def test_several_topics_and_channels(tmp_path: Path) -> None:
    with custom_chain("native", tmp_path, NSQ_TOPIC_CHANNEL='"one:a,two:b#ephemeral"') as chain:
        for topic in ("one", "two"):
            chain.publish(b'{"Event-Category": "test", "Event-Name": "show"}', topic=topic)
        process = chain.kamailio.process
        process.wait_for_log(r"test: topic=one channel=a attempts=1$")
        process.wait_for_log(r"test: topic=two channel=b#ephemeral attempts=1$")
        chain.drain(topic="one", channel="a")
        chain.drain(topic="two", channel="b#ephemeral")


def test_two_consumer_processes_share_the_work_and_keep_the_order(kind: str, tmp_path: Path) -> None:
    with Chain(kind, tmp_path, defines={"NSQ_CONSUMERS": 2}) as chain:
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).clients == 2, what="two consumers")
        people = [Person(chain=chain) for _ in range(50)]
        with chain.watcher() as watcher:
            lamps = watcher.subscribe_many([person.uri for person in people], "dialog")
            events = [
                event("dialog", person.user, **person.call_fields(state))
                for state in ("early", "confirmed", "terminated")
                for person in people
            ]
            chain.nsqd.publish_many(TOPIC, events)
            chain.drain()
            assert [states(chain, person) for person in people] == [["terminated"]] * len(people)
            for person, lamp in zip(people, lamps, strict=True):
                last = lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the end", after=1)
                assert last.dialog_info.dialogs[0].call_id == f"{person.user}-call"
                assert lamp.notifies[-1] == last
        assert chain.counter("received") == len(events)
        assert sum(name.endswith("consumer") for name in chain.kamailio.pids().values()) == 2
    assert chain.complaints() == []


@pytest.mark.parametrize(("ack", "kept"), [("processed", 1), ("received", 0)])
def test_kamailio_ends_while_an_event_is_handled(kind: str, tmp_path: Path, ack: str, kept: int) -> None:
    """With NSQ_ACK processed nsqd has the event still and delivers it again; with received it is gone."""
    with custom_chain(kind, tmp_path, NSQ_ACK=ack, NSQ_MSG_TIMEOUT=0, nsqd_options={"msg_timeout": "2s"}) as chain:
        chain.publish(SLOW)
        chain.kamailio.process.wait_for_log("test: slow begins")
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).in_flight == kept, what=f"{kept} in flight")
        pids = chain.kamailio.pids()
        os.kill(chain.kamailio.process.pid, signal.SIGTERM)
        assert chain.kamailio.process.wait_exit() == 0
        assert not any(map(is_running, pids))
        # nsqd waits for --msg-timeout even when the connection has gone.
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).in_flight == 0, what="nsqd to requeue what was in flight")
        assert chain.nsqd.channel(TOPIC, CHANNEL).depth == kept
        chain.nsqd.http("POST", "/channel/empty", topic=TOPIC, channel=CHANNEL)
        chain.kamailio.start()
        shown(chain, Person(chain=chain))


def test_an_unfinished_event_is_handled_by_the_next_start(kind: str, tmp_path: Path) -> None:
    with Chain(kind, tmp_path) as chain:
        person = Person(chain=chain)
        chain.kamailio.stop()
        person.call("confirmed")
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).depth == 1, what="the event in the channel")
        chain.kamailio.start()
        until(lambda: states(chain, person) == ["confirmed"], what="the row")
        chain.drain()


def test_nsqd_goes_and_comes_back(kind: str, tmp_path: Path) -> None:
    with Chain(kind, tmp_path) as chain:
        shown(chain, Person(chain=chain))
        chain.nsqd.stop()
        chain.kamailio.process.wait_for_log(
            rf"WARNING: .* kemi-nsq: lost {TOPIC}:{CHANNEL} at {chain.nsqd.tcp_address}: "
        )
        assert chain.kamailio.alive()
        chain.nsqd.start()
        shown(chain, Person(chain=chain))
    expected = ("kemi-nsq: lost ", "kemi-nsq: cannot connect to nsqd ", r"kemi-nsq: consuming \S+ at \S+ again")
    assert chain.complaints(expected) == []


def test_kamailio_starts_without_nsqd_and_consumes_when_it_comes(kind: str, tmp_path: Path) -> None:
    with Chain(kind, tmp_path) as chain:
        chain.kamailio.stop()
        chain.nsqd.stop()
        chain.kamailio.start()
        chain.kamailio.process.wait_for_log(
            rf"ERROR: .* kemi-nsq: cannot connect to nsqd {chain.nsqd.tcp_address}: Connection refused; trying again$"
        )
        assert chain.kamailio.options().status == 200
        chain.nsqd.start()
        shown(chain, Person(chain=chain))


@contextmanager
def table_taken_away(database: Path) -> Iterator[None]:
    """Rename the presentity table: every write fails at once."""
    with closing(sqlite3.connect(database, timeout=5)) as connection:
        connection.execute("ALTER TABLE presentity RENAME TO taken_away")
        yield
        connection.execute("ALTER TABLE taken_away RENAME TO presentity")


@contextmanager
def database_locked(database: Path) -> Iterator[None]:
    """Hold SQLite's lock as another writer would: every write waits, and then fails."""
    with closing(sqlite3.connect(database, timeout=5, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("outage", "reason"), [(table_taken_away, "no such table: presentity"), (database_locked, "database is locked")]
)
def test_an_event_waits_for_the_database(
    kind: str, tmp_path: Path, outage: Callable[[Path], AbstractContextManager[None]], reason: str
) -> None:
    with Chain(kind, tmp_path) as chain:
        person = Person(chain=chain)
        shown(chain, Person(chain=chain))  # the consumer has its connection
        with outage(chain.database):
            person.call("confirmed")
            until(lambda: chain.counter("given_back") >= 1, timeout_s=15, what="the event to be given back")
            assert chain.kamailio.options().status == 200
        until(lambda: states(chain, person) == ["confirmed"], timeout_s=15, what="the row")
        chain.drain()
        assert chain.counter("pua_database_error") >= 1
        assert chain.log_lines(f"kemi-nsq: .*{reason}")
        assert chain.kamailio.process.exit_code is None


def test_each_channel_of_a_topic_gets_the_event(tmp_path: Path) -> None:
    with custom_chain("native", tmp_path, NSQ_TOPIC_CHANNEL='"calls:a,calls:b"') as chain:
        until(lambda: all(chain.nsqd.channel("calls", name).clients for name in "ab"), what="both consumers")
        chain.publish(b'{"Event-Category": "test", "Event-Name": "show"}', topic="calls")
        for channel in "ab":
            chain.kamailio.process.wait_for_log(rf"test: topic=calls channel={channel} attempts=1$")
        assert len(chain.log_lines("test: topic=calls")) == 2
