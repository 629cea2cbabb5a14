# SPDX-License-Identifier: GPL-2.0-or-later
"""What people see of the table, in SQLite, PostgreSQL and MariaDB: all rows, who watches, and no way to write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from operator import methodcaller

import pytest
import sqlalchemy as sa

from kemi_nsq.errors import DatabaseError
from kemi_nsq.presence.look import Look
from kemi_nsq.presence.row import Row, reset_row, tombstone
from kemi_nsq.presence.table import PresentityTable
from tests.support.rows import NOW
from tests.support.tables import WATCHERS_TABLE, Database, made

ALICE, BOB = ("alice", "example.com"), ("bob", "example.com")


@pytest.fixture
def look(database: Database) -> Iterator[Look]:
    with closing(Look(database.url, "presentity", WATCHERS_TABLE)) as made:
        yield made


@pytest.fixture
def rows(table: PresentityTable, database: Database) -> dict[str, Row]:
    """Store a call, one that is over and hidden, a presence of Bob's, a phone's own, and a reset."""
    stored = {
        "call": made(5),
        "over": tombstone(made(6, Call_ID="over", State="terminated")),
        "bob": made(7, From="sip:bob@example.com", Event_Package="presence", State="busy"),
    }
    for row in stored.values():
        database.insert(row)
    database.insert(stored["call"]._replace(etag="phone"), ruid=None)
    table.remember_reset(reset_row("sip:x@pbx", position=1, now=NOW, tombstone_s=300))
    return stored


def test_all_rows_of_presentities_are_found_whoever_wrote_them(look: Look, rows: dict[str, Row]) -> None:
    found = look.rows()
    assert [(row.username, row.etag) for row in found] == [
        ("alice", rows["call"].etag),
        ("alice", rows["over"].etag),
        ("alice", "phone"),
        ("bob", rows["bob"].etag),
    ]
    assert found[0] == rows["call"]._replace(is_over=False)
    assert found[2].ruid == ""


@pytest.mark.usefixtures("rows")
def test_only_what_is_asked_for_is_found(look: Look) -> None:
    assert len(look.rows(who=ALICE)) == 3
    assert len(look.rows(who=ALICE, hidden=False)) == 2
    assert len(look.rows(package="presence")) == 1
    assert len(look.rows(who=BOB, package="dialog")) == 0
    assert len(look.rows(domain="example.com")) == 4
    assert len(look.rows(domain="example.org")) == 0
    assert len(look.rows(most=2)) == 2


@pytest.mark.usefixtures("rows")
def test_who_watches_is_found(look: Look, database: Database) -> None:
    for number, event in enumerate(("dialog", "dialog", "presence")):
        database.watch("sip:alice@example.com", event, number=number)
    database.watch("sip:bob@example.com", "dialog", number=9)
    database.execute(f"UPDATE {WATCHERS_TABLE} SET status = 2, reason = 'x' WHERE callid = 'callid1'")
    first, second, third = look.subscriptions([("sip:alice@example.com", "")])
    assert (first.watcher, first.contact, first.callid) == (
        "sip:watcher_username0@watcher_domain0", "contact0", "callid0",
    )  # fmt: skip
    assert (first.active, second.active, second.reason, third.event) == (True, False, "x", "presence")
    assert len(look.subscriptions([("sip:alice@example.com", "dialog")])) == 2
    assert len(look.subscriptions()) == 4
    assert look.watched() == {
        ("sip:alice@example.com", "dialog"): 1,
        ("sip:alice@example.com", "presence"): 1,
        ("sip:bob@example.com", "dialog"): 1,
    }


def test_nothing_can_be_written(look: Look, database: Database) -> None:
    row = made(5)
    database.insert(row)
    for statement in ("DELETE FROM presentity", "UPDATE presentity SET sender = 'x'"):
        with pytest.raises(DatabaseError, match=r"(?i)read.?only|READ ONLY"):
            look._database.run(methodcaller("execute", sa.text(statement)))
    assert len(look.rows()) == 1


def test_a_table_that_is_not_there_is_told(database: Database) -> None:
    with closing(Look(database.url, "presentity", "nowhere")) as look:
        with pytest.raises(DatabaseError, match="nowhere"):
            look.watched()
        assert look.rows() == []
