# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows that no document shows, in SQLite, PostgreSQL and MariaDB: calls that are over, and calls without room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from kemi_nsq.presence.change import Change
from kemi_nsq.presence.row import GRACE_S, TOMBSTONE_BODY, Row, ended_row
from kemi_nsq.presence.table import PresentityTable
from tests.support.rows import NOW
from tests.support.tables import Database, made

LATER = NOW + 1000
LIMIT = 3
WRITERS = 4


@pytest.fixture
def limited(database: Database) -> Iterator[PresentityTable]:
    """Return a store whose documents have room for three."""
    with closing(PresentityTable(database.url, "presentity", max_dialogs=LIMIT)) as table:
        yield table


def over(position: int, call: str) -> Row:
    return made(position, State="terminated", Call_ID=call)


def live(position: int, call: str, state: str = "early") -> Row:
    return made(position, State=state, Call_ID=call)


def expiries(database: Database) -> dict[str, int]:
    """Return `expires` of each call."""
    return {str(row["etag"]).rpartition("/")[2]: int(str(row["expires"])) for row in database.rows()}


def shown(database: Database) -> set[str]:
    return {call for call, expires in expiries(database).items() if expires > 0}


# Tombstones


def test_a_call_that_is_over_is_hidden_by_its_order_key(table: PresentityTable, database: Database) -> None:
    ends = [over(5, "a"), over(5, "b")]
    table.save_all([*ends, live(5, "c")])
    table.hide([ends[0].ruid], until=LATER)
    assert expiries(database) == {"a": -LATER, "b": ends[1].expires, "c": made().expires}
    (row,) = database.rows("expires < 0")
    assert (row["body"], row["ruid"]) == (TOMBSTONE_BODY, ends[0].ruid)


def test_what_came_after_the_end_is_not_hidden(table: PresentityTable, database: Database) -> None:
    end = over(5, "a")
    table.save(end)
    assert table.save(live(6, "a", "confirmed")) is Change.STORED
    table.hide([end.ruid], until=LATER)
    assert shown(database) == {"a"}


def test_many_are_hidden_at_once(table: PresentityTable, database: Database) -> None:
    ends = [over(5, f"c{number}") for number in range(1201)]
    table.save_all(ends)
    table.hide([end.ruid for end in ends], until=LATER)
    assert set(expiries(database).values()) == {-LATER}


@pytest.mark.parametrize("state", ["trying", "early", "confirmed"])
def test_a_late_event_does_not_revive_a_hidden_call(table: PresentityTable, database: Database, state: str) -> None:
    end = over(5, "a")
    table.save(end)
    table.hide([end.ruid], until=LATER)
    assert table.save(live(4, "a", state)) is Change.STALE
    assert shown(database) == set()


def test_a_repeated_end_stays_hidden_and_nobody_is_told(table: PresentityTable, database: Database) -> None:
    end = over(5, "a")
    table.save(end)
    table.hide([end.ruid], until=LATER)
    assert table.save(over(6, "a")) is Change.UNCHANGED
    assert expiries(database) == {"a": -end.expires}
    assert table.save(live(5, "a")) is Change.STALE, "the later end counts"


def test_a_new_call_of_the_same_name_is_shown(table: PresentityTable, database: Database) -> None:
    end = over(5, "a")
    table.save(end)
    table.hide([end.ruid], until=LATER)
    again = live(6, "a")
    assert table.save(again) is Change.STORED
    assert [row["body"] for row in database.rows("expires > 0")] == [again.body]


def test_tombstones_are_forgotten_when_their_time_is_over(table: PresentityTable, database: Database) -> None:
    ends = [over(5, "a"), over(5, "b")]
    table.save_all([*ends, live(5, "c")])
    table.hide([ends[0].ruid], until=LATER)
    table.hide([ends[1].ruid], until=LATER + 1)
    # What hard-state PUBLISH stores, and what never expires.
    database.insert(live(5, "hard"), expires=-1, ruid=None)
    database.insert(live(5, "eternal"), expires=0, ruid=None)
    assert table.search.forget(LATER - 1) == 0
    assert table.search.forget(LATER) == 1
    assert set(expiries(database)) == {"b", "c", "hard", "eternal"}


def test_lingering_finds_ends_that_are_still_shown(table: PresentityTable, database: Database) -> None:
    end, quiet = over(5, "a"), over(5, "b")
    mailbox = ended_row(made(Event_Package="message-summary"), b"x", now=NOW, position=6, tombstone_s=300)
    table.save_all([end, quiet, live(5, "c"), mailbox])
    table.hide([quiet.ruid], until=LATER)
    assert [row.etag for row in table.search.lingering(NOW, expiring=(0, end.expires))] == [end.etag]
    assert table.search.lingering(NOW, expiring=(0, end.expires - 1)) == []
    assert table.search.lingering(NOW, expiring=(end.expires + 1, end.expires + 99)) == []
    assert table.search.lingering(NOW - 1, expiring=(0, end.expires)) == [], "its process may be about to hide it"


def test_only_calls_hide(table: PresentityTable, database: Database) -> None:
    """A mailbox, or a presence, that is over has a document that says so."""
    for package in ("presence", "message-summary"):
        row = made(Event_Package=package, Messages_New=1, State="busy")
        table.save(row)
        assert table.save(ended_row(row, b"over", now=NOW, position=6, tombstone_s=300)) is Change.STORED
    assert len(database.rows("expires > 0")) == 2


# Room


def test_what_finds_no_room_is_stored_and_waits(limited: PresentityTable, database: Database) -> None:
    calls = [live(number, f"c{number}") for number in range(5)]
    assert limited.save_all(calls).changes == [*[Change.STORED] * LIMIT, *[Change.HIDDEN] * 2]
    assert shown(database) == {"c0", "c1", "c2"}
    assert limited.save(live(9, "c9")) is Change.HIDDEN
    (waiting,) = database.rows("etag = :etag", etag=live(9, "c9").etag)
    assert waiting["body"] == live(9, "c9").body
    assert limited.save(made(9, From="sip:bob@example.com")) is Change.STORED, "another presentity has room of its own"


def test_a_waiting_call_goes_on_hidden_and_a_shown_one_shown(limited: PresentityTable, database: Database) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(4)])
    assert limited.save(live(9, "c3", "confirmed")) is Change.HIDDEN
    assert limited.save(live(9, "c0", "confirmed")) is Change.STORED
    assert shown(database) == {"c0", "c1", "c2"}


def test_for_each_that_ends_one_is_shown(limited: PresentityTable, database: Database) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(6)])
    assert limited.save(over(10, "c1")) is Change.STORED
    assert shown(database) == {"c0", "c1", "c2", "c3"}, "the end is told, and the oldest that waits"
    assert expiries(database)["c3"] == made().expires
    limited.hide([over(10, "c1").ruid], until=LATER)
    assert limited.save(over(11, "c5")) is Change.HIDDEN, "a waiting call was shown to nobody"
    assert limited.save_all([over(12, "c0"), over(12, "c2")]).changes == [Change.STORED] * 2
    assert shown(database) == {"c0", "c2", "c3", "c4"}


def test_ends_have_room_of_their_own_and_no_more(limited: PresentityTable, database: Database) -> None:
    """Else a backlog of ends would make the document too large to be told."""
    limited.save_all([live(number, f"c{number}") for number in range(3)])
    assert limited.save_all([over(9, f"x{number}") for number in range(5)]).changes == [
        *[Change.STORED] * LIMIT,
        *[Change.HIDDEN] * 2,
    ]
    assert limited.save(over(10, "c0")) is Change.STORED, "gone from the document: that is news"
    assert shown(database) == {"c1", "c2", "x0", "x1", "x2"}


def test_what_makes_room_in_another_way_is_noticed_by_the_sweep(limited: PresentityTable, database: Database) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(5)])
    assert limited.settle(NOW) == []
    database.execute("DELETE FROM presentity WHERE etag = :etag", etag=live(0, "c0").etag)
    assert limited.settle(NOW) == [("alice", "example.com")]
    assert shown(database) == {"c1", "c2", "c3"}
    assert limited.settle(NOW) == []


def test_without_a_limit_all_that_wait_are_shown(
    limited: PresentityTable, table: PresentityTable, database: Database
) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(5)])
    assert table.settle(NOW) == [("alice", "example.com")]
    assert len(shown(database)) == 5


def test_rows_of_others_take_no_room(limited: PresentityTable, database: Database) -> None:
    """A phone's own dialog may be over and stay for an hour: it must not keep a lamp dark."""
    for number in range(LIMIT):
        database.insert(live(5, f"phone{number}"), ruid=f"{number}")
    assert limited.save(live(5, "c")) is Change.STORED


def test_rows_whose_time_is_over_take_no_room(limited: PresentityTable, database: Database) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(LIMIT)])
    database.execute("UPDATE presentity SET expires = :now WHERE etag = :etag", now=NOW, etag=live(0, "c0").etag)
    assert limited.save(live(5, "d")) is Change.STORED, "Kamailio shows it no more"


def test_what_lives_again_takes_its_seat_from_the_youngest(limited: PresentityTable, database: Database) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(2 * LIMIT)])
    limited.save_all([over(10, f"c{number}") for number in range(LIMIT)])
    assert len(shown(database)) == 2 * LIMIT
    saved = limited.save_all([live(11, f"c{number}") for number in range(LIMIT)])
    assert saved.changes == [Change.STORED] * LIMIT
    assert set(saved.reseated) == {("alice", "example.com")}
    assert shown(database) == {f"c{number}" for number in range(LIMIT)}


def test_two_presentities_that_differ_in_case_have_room_of_their_own(
    limited: PresentityTable, database: Database
) -> None:
    """Where the database takes them for two; MariaDB takes them for one, and so does Kamailio."""
    limited.save_all([live(number, f"c{number}") for number in range(LIMIT)])
    other = made(9, From="sip:Alice@example.com", Call_ID="d")
    change = Change.HIDDEN if database.name == "mariadb" else Change.STORED
    assert limited.save_all([live(9, "e"), other]).changes == [Change.HIDDEN, change]


def test_presentities_whose_waiting_calls_are_shown_are_named(limited: PresentityTable) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(LIMIT + 1)])
    assert set(limited.save_all([over(9, "c0")]).reseated) == {("alice", "example.com")}
    assert set(limited.save_all([over(9, "c1")]).reseated) == set()


def test_a_waiting_call_expires_and_can_be_reset(limited: PresentityTable, database: Database) -> None:
    limited.save_all([live(number, f"c{number}") for number in range(4)])
    until = made().expires
    assert limited.search.expiring(until - 1) == []
    assert len(limited.search.expiring(until)) == 4
    assert len(limited.search.find()) == 4
    waiting = next(row for _, row in limited.search.find() if row.expires < 0)
    end = ended_row(waiting, b"over", now=NOW, position=9, tombstone_s=300)
    assert limited.save(end) is Change.HIDDEN
    assert expiries(database)["c3"] == -(NOW + 300 + GRACE_S)


def test_sizes_grow_with_what_is_shown(limited: PresentityTable) -> None:
    alice = ("alice", "example.com")
    sizes = [limited.save_all([live(number, f"c{number}")]).sizes[alice] for number in range(4)]
    step = len(live(0, "c0").body) - 100
    assert sizes == [step, 2 * step, 3 * step, 3 * step]
    assert limited.save_all([live(9, "c0", "confirmed")]).sizes == {}, "as many as before"


# Several writers


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_writers_at_once_give_no_more_seats_than_there_are_and_leave_none_empty(database: Database, limit: int) -> None:
    """Calls begin and end in four processes at the same time."""
    calls = [f"c{number}" for number in range(60)]
    failures: list[BaseException] = []

    def write(rows: list[list[Row]]) -> None:
        try:
            with closing(PresentityTable(database.url, "presentity", max_dialogs=limit)) as own:
                for batch in rows:
                    own.save_all(batch)
                    counted = len(shown(database))
                    assert counted <= WRITERS * 2 * limit, "even in between"
        except BaseException as error:
            failures.append(error)

    begins = [[live(5, call) for call in calls[number::WRITERS]] for number in range(WRITERS)]
    at_once(write, [[batch[start : start + 5] for start in range(0, len(batch), 5)] for batch in begins])
    assert failures == []
    assert len(shown(database)) == limit
    ends = [[over(9, call) for call in calls[number:40:WRITERS]] for number in range(WRITERS)]
    at_once(write, [[batch[start : start + 3] for start in range(0, len(batch), 3)] for batch in ends])
    assert failures == []
    seated = [row for row in database.rows("expires > 0") if b"terminated" not in bytes(row["body"])]  # type: ignore[call-overload]
    assert len(seated) == limit


def at_once(write: Callable[[list[list[Row]]], None], work: list[list[list[Row]]]) -> None:
    threads = [threading.Thread(target=write, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
