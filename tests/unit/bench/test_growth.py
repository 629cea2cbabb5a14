# SPDX-License-Identifier: GPL-2.0-or-later
"""What fills the table before something is measured beside it, and how sizes are compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kemi_nsq.presence.row import Row
from kemi_nsq.presence.statements import CHANGED, KEY
from tests.bench import growth
from tests.bench.calls import PRESENTITIES, call, rounds, row
from tests.bench.figures import Figure
from tests.support.documents import parse_dialog_info
from tests.support.presentity_table import create_presentity_table

MODEL = row(call(0, "confirmed"), 0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection to an empty presentity table."""
    with closing(sqlite3.connect(create_presentity_table(tmp_path / "kamailio.db"))) as connection:
        yield connection


def filled(database: sqlite3.Connection, count: int, *, of_others: bool) -> list[Row]:
    """Return the rows that the statement makes."""
    database.execute(growth.fill_statement(MODEL, count, of_others=of_others))
    names = [name for name in Row._fields if name in (*KEY, *CHANGED)]
    found = database.execute(f"SELECT {', '.join(names)} FROM presentity ORDER BY id").fetchall()
    return [MODEL._replace(**dict(zip(names, values, strict=True))) for values in found]


@pytest.mark.parametrize("of_others", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2 * PRESENTITIES])
def test_there_are_as_many_rows_as_wanted_each_with_a_live_call_of_its_own(
    database: sqlite3.Connection, count: int, of_others: bool
) -> None:
    rows = filled(database, count, of_others=of_others)
    assert len(rows) == count
    assert len({each.ruid for each in rows}) == len({each.etag for each in rows}) == count
    documents = [parse_dialog_info(each.body) for each in rows]
    assert [[dialog.state for dialog in document.dialogs] for document in documents] == [["confirmed"]] * count
    assert len({document.dialogs[0].call_id for document in documents}) == count
    same = {each._replace(username="", etag="", ruid="", body=b"") for each in rows}
    assert same <= {MODEL._replace(username="", etag="", ruid="", body=b"")}
    assert {len(each.ruid) for each in rows} <= {len(MODEL.ruid)}


def test_they_are_of_others_or_of_the_presentities_in_turn(database: sqlite3.Connection) -> None:
    users = {f"user{number}" for number in range(PRESENTITIES)}
    others = [each.username for each in filled(database, 1000, of_others=True)]
    assert len({*others}) == 1000
    assert not users & {*others}
    database.execute("DELETE FROM presentity")
    in_turn = [each.username for each in filled(database, 2 * PRESENTITIES, of_others=False)]
    assert {*in_turn} == users
    assert in_turn[:PRESENTITIES] == in_turn[PRESENTITIES:]


def test_each_size_is_compared_with_the_smallest() -> None:
    figures = growth._figures("grown to {} calls", {1: [4.0, 5.0, 9.0], 10: [2.0], 100: [1.0]}, "updates/s")
    assert figures == [
        Figure(measure="grown to 10 calls", value=2.0, unit="updates/s", baseline=5.0),
        Figure(measure="grown to 100 calls", value=1.0, unit="updates/s", baseline=5.0),
    ]


def test_no_two_calls_of_a_presentity_live_at_once() -> None:
    live: set[bytes] = set()
    for body in rounds(2):
        user = body.partition(b'"From": ')[2].partition(b",")[0]
        if b'"early"' in body:
            assert user not in live
            live.add(user)
        elif b'"terminated"' in body:
            live.remove(user)
    assert not live
