# SPDX-License-Identifier: GPL-2.0-or-later
"""The same presence on SQLite, PostgreSQL and MariaDB, with two consumer processes on one channel."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import pytest

from kemi_nsq.presence.row import TOMBSTONE_BODY
from tests.support.chain import SHIPPED, TOPIC, Person, event
from tests.support.documents import MessageCounts
from tests.support.kamailio import quoted
from tests.support.notify import LAMPS, Notify
from tests.support.stored import DATABASES, StoredChain, stored_chain
from tests.support.subscription import Subscription
from tests.support.until import until

Value = TypeVar("Value")

CONSUMERS, PRESENTITIES = 2, 50
#: Seconds that an ended state stays in the table; the smallest that NSQ_PUA_TOMBSTONE allows.
TOMBSTONE_S = 10
#: Kamailio's cleaner does not wait for another writer to an SQLite file; it succeeds the next time.
CLEANER = (r"db_sqlite.*: database is locked", r"presence .*: ps_\w+_db_timer_clean\(\): ")
STATES = ("trying", "early", "confirmed", "terminated")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortLived:
    """Somebody whose states expire while the other tests run, and who watches them."""

    person: Person
    lamps: Mapping[str, Subscription]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What the tests of one database share."""

    stored: StoredChain
    short_lived: ShortLived


@pytest.fixture(scope="module")
def all_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Running]]:
    """Run a chain on each database, all at once: what expires does so while others are tested."""
    with ExitStack() as stack:
        yield {each: stack.enter_context(run(each, tmp_path_factory.mktemp(each))) for each in DATABASES}


@pytest.fixture(params=DATABASES)
def running(all_running: Mapping[str, Running], request: pytest.FixtureRequest) -> Running:
    """Return the chain of each database in turn."""
    return all_running[str(request.param)]


@contextmanager
def run(database: str, folder: Path) -> Iterator[Running]:
    """Run a chain whose presence module says within seconds whatever it would say of an expired row."""
    config = folder / "quick.cfg"
    config.write_text(f'include_file "{SHIPPED / "kamailio.cfg"}"\nmodparam("presence", "clean_period", 2)\n')
    with stored_chain(
        database,
        folder,
        config=config,
        NSQ_CONSUMERS=CONSUMERS,
        NSQ_PUA_ORDER_FIELD=quoted("Seq"),
        NSQ_PUA_TOMBSTONE=TOMBSTONE_S,
    ) as stored:
        with stored.chain.watcher() as watcher:
            person = Person(chain=stored.chain)
            lamps = {package: watcher.subscribe(person.uri, package) for package in LAMPS}
            person.call("confirmed", Seq=1, Expires=1)
            person.publish("presence", Seq=1, State="busy", Expires=1)
            person.publish("message-summary", Seq=1, Messages_New=2, Expires=1)
            yield Running(stored=stored, short_lived=ShortLived(person=person, lamps=lamps))
        stored.chain.drain()
        assert stored.chain.counter("refresh_failed") == 0
    assert stored.chain.complaints(CLEANER if database == "sqlite" else ()) == []


def test_a_call_lights_and_clears_a_lamp(running: Running) -> None:
    person = Person(chain=running.stored.chain)
    with person.chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        for number, state in enumerate(STATES[1:]):
            person.call(state, Seq=number)
            info = lamp.wait(shows(state), what=state, after=1).dialog_info
            assert info.dialogs[0].call_id == f"{person.user}-call"
            [(package, body)] = running.stored.rows(person.user)
            assert package == "dialog"
            assert f"<state>{state}</state>" in body
        assert [notify.dialog_info.version for notify in lamp.notifies] == [1, 2, 3, 4]


def test_a_mailbox_and_presence(running: Running) -> None:
    person = Person(chain=running.stored.chain)
    with person.chain.watcher() as watcher:
        mailbox, presence = (watcher.subscribe(person.uri, package) for package in ("message-summary", "presence"))
        person.publish("message-summary", Seq=1, Messages_New=3, Messages_Saved=4)
        full = mailbox.wait(lambda notify: notify.message_summary.waiting, what="a lit lamp").message_summary
        assert full.voice == MessageCounts(new=3, saved=4)
        person.publish("message-summary", Seq=2, Messages_New=0, Messages_Saved=7)
        mailbox.wait(lambda notify: notify.message_summary.voice == MessageCounts(new=0, saved=7), what="a dark lamp")
        person.publish("presence", Seq=1, State="away")
        assert presence.wait(lambda notify: notify.pidf.note == "Away", what="away").pidf.activities == ("away",)
    assert sorted(package for package, _ in running.stored.rows(person.user)) == ["message-summary", "presence"]


def test_names_of_every_alphabet_come_back_as_they_were(running: Running) -> None:
    person, name = Person(chain=running.stored.chain), "Zoë 李 😀 'x' \\ %s"
    with person.chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early", Seq=1, To=f'"{name.replace(chr(92), chr(92) * 2)}" <sip:bob@example.com>')
        dialog = lamp.wait(shows("early"), what="early").dialog_info.dialogs[0]
        assert dialog.remote.display == name


def test_shuffled_and_doubled_events_end_right(running: Running) -> None:
    """Two consumer processes take them, so events of one call are handled at the same time."""
    chain = running.stored.chain
    until(lambda: chain.nsqd.channel(TOPIC, TOPIC).clients == CONSUMERS, what="the consumers")
    received = chain.counter("received")
    people = [Person(chain=chain) for _ in range(PRESENTITIES)]
    events = [
        event("dialog", person.user, **person.call_fields(state, Seq=number))
        for person in people
        for number, state in enumerate(STATES)
    ] * 2
    random.Random(5).shuffle(events)
    with chain.watcher() as watcher:
        lamps = watcher.subscribe_many([person.uri for person in people], "dialog")
        chain.nsqd.publish_many(TOPIC, events)
        chain.drain()
        for lamp in lamps:
            lamp.wait(shows("terminated"), what="the end", after=1)
        wrong_lamps = [lamp.presentity for lamp in lamps if lamp.notifies[-1].dialog_info.states != ("terminated",)]
    assert wrong_lamps == []
    for person in people:
        until(lambda user=person.user: is_tombstone(running.stored.rows(user)), what="its end to be hidden")  # type: ignore[misc]
    assert chain.counter("received") >= received + len(events)


def test_what_expires_ends_once_with_a_full_document(running: Running) -> None:
    """It ended while the other tests ran; its row goes later, and nobody is told of that.

    Where both consumers end it at the same moment, watchers are told twice.
    """
    user, lamps = running.short_lived.person.user, running.short_lived.lamps
    until(lambda: running.stored.count(f"username = '{user}'") == 0, timeout_s=TOMBSTONE_S + 20, what="the rows to go")
    calls, presence, mailbox = (lamps[each].notifies for each in LAMPS)
    assert told([each.dialog_info.states for each in calls]) == [("terminated",), ("confirmed",), ("terminated",)]
    assert told([each.pidf.basic for each in presence[1:]]) == ["open", "closed"]
    assert told([each.message_summary.waiting for each in mailbox[1:]]) == [True, False]
    assert mailbox[-1].message_summary.voice == MessageCounts(new=0, saved=0)


def told(values: Sequence[Value]) -> list[Value]:
    """Leave out what only repeats the one before."""
    return [value for value, _ in groupby(values)]


def shows(state: str) -> Callable[[Notify], bool]:
    """Return what says whether a NOTIFY shows one dialog, in this state."""

    def look(notify: Notify) -> bool:
        return notify.dialog_info.states == (state,)

    return look


def is_tombstone(rows: list[tuple[str, str]]) -> bool:
    return rows == [("dialog", TOMBSTONE_BODY.decode())]
