# SPDX-License-Identifier: GPL-2.0-or-later
"""The presentity table in SQLite, PostgreSQL and MariaDB, with Kamailio's own schema: the same tests on each."""

from __future__ import annotations

import itertools
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
import sqlalchemy as sa

from kemi_nsq.errors import DatabaseError, NsqError, RowRefused
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence import database as module
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.due import Due
from kemi_nsq.presence.row import RUID_LENGTH, Row
from kemi_nsq.presence.table import PresentityTable
from tests.support.rows import NOW
from tests.support.tables import IMPATIENT_S, Database, columns, made
from tests.support.until import until

ROW = made()
LATER = made(6, State="confirmed")
EARLIER = made(4, State="trying")


# One row


def test_a_new_row_is_stored_as_it_is(table: PresentityTable, database: Database) -> None:
    given = ROW._replace(body=b"\xc3\xa4\xff", priority=7)
    assert table.save(given) is Change.STORED
    assert database.rows() == [columns(given)]


def test_a_later_row_replaces_every_column_of_an_earlier_one(table: PresentityTable, database: Database) -> None:
    table.save(ROW)
    later = LATER._replace(expires=7, received_time=8, sender="x", priority=9)
    assert table.save(later) is Change.STORED
    assert database.rows() == [columns(later)]


def test_of_no_rows_nothing_comes(table: PresentityTable, database: Database) -> None:
    assert table.save_all([]).changes == []
    assert table.watched([]) == frozenset()
    assert database.rows() == []


@pytest.mark.parametrize("other", [ROW, ROW._replace(body=b"other", expires=1), EARLIER], ids=["same", "twin", "early"])
def test_what_is_not_later_changes_nothing(table: PresentityTable, database: Database, other: Row) -> None:
    table.save(ROW)
    assert table.save(other) is Change.STALE
    assert database.rows() == [columns(ROW)]


def test_the_same_document_is_kept_longer_and_nobody_need_know(table: PresentityTable, database: Database) -> None:
    table.save(ROW)
    longer = LATER._replace(body=ROW.body, expires=ROW.expires + 99)
    assert table.save(longer) is Change.UNCHANGED
    assert database.rows() == [columns(longer)]


def test_the_same_document_after_the_old_one_had_expired_is_news(table: PresentityTable) -> None:
    table.save(ROW._replace(expires=NOW))
    assert table.save(LATER._replace(body=ROW.body, received_time=NOW)) is Change.STORED


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_whatever_the_order_the_latest_stays(
    table: PresentityTable, database: Database, order: tuple[int, ...]
) -> None:
    events = [made(position, State=state) for position, state in enumerate(("trying", "early", "early", "terminated"))]
    for number in order:
        table.save(events[number])
    assert database.rows() == [columns(events[3])]


@pytest.mark.parametrize(("states", "kept"), [(("terminated", "early"), 0), (("early", "confirmed"), 1)])
def test_at_one_time_the_later_state_of_a_dialog_wins(
    table: PresentityTable, database: Database, states: tuple[str, str], kept: int
) -> None:
    """Whichever came first: the message id counts only for one state."""
    events = [made(5, message, State=state) for message, state in zip((1, 2), states, strict=True)]
    for order in (events, events[::-1]):
        database.clear()
        for event in order:
            table.save(event)
        assert database.rows() == [columns(events[kept])]


@pytest.mark.parametrize("body", [b"<foreign/>", ROW.body], ids=["other", "same"])
def test_a_row_of_another_writer_without_ruid_is_older(table: PresentityTable, database: Database, body: bytes) -> None:
    database.insert(ROW._replace(body=body), ruid=None)
    assert table.save(EARLIER) is Change.STORED
    assert database.rows() == [columns(EARLIER)]


def test_a_row_that_the_presence_module_has_deleted_is_new_again(table: PresentityTable, database: Database) -> None:
    table.save(ROW)
    database.execute("DELETE FROM presentity")
    assert table.save(EARLIER) is Change.STORED
    assert database.rows() == [columns(EARLIER)]


# Several rows


def test_rows_written_together_say_each_what_they_did(table: PresentityTable, database: Database) -> None:
    there = made(5, Call_ID="same"), made(9, Call_ID="old")
    table.save_all(there)
    batch = [
        made(7, Call_ID="new", State="terminated"),
        made(6, Call_ID="new"),
        made(8, Call_ID="new", State="trying"),
        made(6, Call_ID="same"),
        made(1, Call_ID="old", State="trying"),
    ]
    assert table.save_all(batch).changes == [Change.STALE, Change.STALE, Change.STORED, Change.UNCHANGED, Change.STALE]
    expected = sorted([batch[2], batch[3], there[1]], key=lambda each: each.etag)
    assert database.rows() == [columns(each) for each in expected]


def test_one_message_twice_in_a_batch_is_one_row(table: PresentityTable, database: Database) -> None:
    assert sorted(table.save_all([ROW, made()]).changes, key=str) == [Change.STALE, Change.STORED]
    assert database.rows() == [columns(ROW)]


def test_many_rows_at_once(table: PresentityTable, database: Database) -> None:
    rows = [made(number, Call_ID=f"c{number}") for number in range(1500)]
    assert set(table.save_all(rows).changes) == {Change.STORED}
    assert set(table.save_all(rows).changes) == {Change.STALE}
    assert len(database.rows()) == 1500


def test_rows_written_together_are_written_all_or_none(table: PresentityTable, database: Database) -> None:
    with pytest.raises(RowRefused):
        table.save_all([made(Call_ID="a"), made(Call_ID="b")._replace(priority=None)])  # type: ignore[arg-type]
    assert database.rows() == []
    assert table.save(ROW) is Change.STORED, "the connection can be used further"


# Looking for rows


def test_find_returns_ours_that_are_not_over(table: PresentityTable, database: Database) -> None:
    ours = [made(Call_ID=f"c{number}", Sender_URI=f"sip:{number % 2}@pbx") for number in range(4)]
    table.save_all([*ours, made(Call_ID="over", State="terminated")])
    database.insert(ROW, etag="foreign", ruid=None)
    database.insert(ROW, etag="kamailio", ruid="5f3c-6553f100-1a2b-3")
    found = table.search.find()
    assert sorted((each for _, each in found), key=lambda each: each.etag) == ours
    assert [each.etag for _, each in table.search.find(found[1][0])] == [each.etag for _, each in found[2:]]
    assert {each.etag for _, each in table.search.find(sender="sip:1@pbx")} == {ours[1].etag, ours[3].etag}
    assert table.search.find(username="alice", domain="example.net") == []


def test_find_gives_pages(table: PresentityTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.presence.due.PAGE", 2)
    monkeypatch.setattr(table.search, "_due", Due(table._table))
    table.save_all([made(Call_ID=f"c{number}") for number in range(5)])
    pages = [table.search.find()]
    while pages[-1]:
        table.save(made(Call_ID=f"meanwhile{len(pages)}"))
        pages.append(table.search.find(pages[-1][-1][0]))
    assert [len(page) for page in pages] == [2, 2, 1, 0], "what comes meanwhile is left alone"


def test_expiring(table: PresentityTable) -> None:
    soon, late = made(Call_ID="soon", Expires=10), made(Call_ID="late", Expires=100)
    table.save_all([soon, late, made(Call_ID="over", State="terminated")])
    assert table.search.expiring(soon.expires - 1) == []
    assert table.search.expiring(soon.expires) == [soon]
    assert len(table.search.expiring(late.expires)) == 2


def test_newest_is_the_latest_of_ours_whatever_has_become_of_it(table: PresentityTable, database: Database) -> None:
    assert table.search.newest() == 0
    database.insert(ROW, etag="none", ruid=None)
    database.insert(ROW, etag="kamailio", ruid="9f3c-6553f100-1a2b-3")
    database.insert(ROW, etag="short", ruid="0f3c-6553f100-1a2b-3")
    assert table.search.newest() == 0
    over = made(8, Call_ID="over", State="terminated")
    table.save_all([ROW, over, LATER])
    table.hide([over.ruid], until=2**31 - 1)
    assert table.search.newest() == over.position


def test_forget_deletes_what_is_over_of_ours_and_nothing_else(table: PresentityTable, database: Database) -> None:
    over = made(Call_ID="over", State="terminated")
    table.save_all([over, ROW])
    database.insert(ROW, etag="none", ruid=None)
    # Where our keys have the rank, this one has a digit that would mean "over".
    database.insert(ROW, etag="kamailio", ruid="pres-6553f100-1a2b-3c4d-5-55555555")
    assert table.search.forget(over.expires - 1) == 0
    assert table.search.forget(2**31 - 1) == 1
    assert [each["etag"] for each in database.rows()] == [ROW.etag, "kamailio", "none"]


def test_watched(table: PresentityTable, database: Database) -> None:
    database.watch("sip:a@x", "dialog", number=1)
    database.watch("sip:a@x", "dialog", number=2)
    database.watch("sip:b@x", "presence", number=3)
    keys = [("sip:a@x", "dialog"), ("sip:b@x", "dialog"), ("sip:b@x", "presence"), ("sip:c@x", "dialog")]
    assert table.watched(keys) == {("sip:a@x", "dialog"), ("sip:b@x", "presence")}


def test_watched_in_another_case(table: PresentityTable, database: Database) -> None:
    """There MariaDB, and so Kamailio, finds the subscription: whoever has it must be told."""
    database.watch("sip:Alice@x", "dialog")
    keys = [("sip:alice@x", "dialog"), ("sip:alice@x", "presence")]
    assert table.watched(keys) == (set(keys[:1]) if database.name == "mariadb" else set())


# Values


HOSTILE = [
    "O'Neill",
    'say "x"',
    "back\\slash\\'",
    "100% %s %(x)s",
    "💩 Zoë 李",
    "; DROP TABLE presentity; --",
    "a\r\nb",
    ":ruid",
    "?",
    "{} $1 @x #",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_are_stored_as_data(table: PresentityTable, database: Database, value: str) -> None:
    given = made(5, From_User=value, To_User=value, Call_ID=value)
    assert table.save(given) is Change.STORED
    assert database.rows() == [columns(given)]
    assert table.save(made(6, From_User=value, To_User=value, Call_ID=value, State="terminated")) is Change.STORED
    assert [each["username"] for each in database.rows()] == [given.username]
    assert b"terminated" in _body(database)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_sender_is_stored_or_refused_but_not_changed(
    table: PresentityTable, database: Database, value: str
) -> None:
    """MariaDB's table may be of a character set that does not have it."""
    given = made(Sender_URI=f"sip:{value}@pbx")
    if database.name == "mariadb" and not value.isascii():
        with pytest.raises(RowRefused, match="Incorrect string value"):
            table.save(given)
        assert database.rows() == []
        return
    table.save(given)
    assert database.rows() == [columns(given)]
    assert [found for _, found in table.search.find(sender=given.sender)] == [given]


def test_nul_is_refused_or_stored_as_it_is(table: PresentityTable, database: Database) -> None:
    """No event brings one (`fields.clean`); if one did, the database must not cut the value there."""
    given = ROW._replace(sender="sip:a\0b@x")
    if database.name == "postgresql":
        with pytest.raises(RowRefused, match="invalid byte sequence"):
            table.save(given)
        assert database.rows() == []
        return
    table.save(given)
    assert database.rows() == [columns(given)]


def test_the_longest_values_fit(table: PresentityTable, database: Database) -> None:
    given = ROW._replace(
        username="u" * 64, domain="d" * 64, etag="e" * 128, sender="s" * 255, body=b"b" * 65535, expires=2**31 - 1
    )
    assert table.save(given) is Change.STORED
    assert database.rows() == [columns(given)]
    assert len(given.ruid) == RUID_LENGTH


@pytest.mark.parametrize("column", ["username", "etag", "sender"])
def test_what_is_too_long_is_refused_not_cut(server_database: Database, column: str) -> None:
    """`presentity.row` refuses it before; a table with shorter columns must not cut it either."""
    with closing(server_database.table()) as table:
        with pytest.raises(RowRefused):
            table.save(ROW._replace(**{column: "x" * 300}))  # type: ignore[arg-type]
        assert server_database.rows() == []
        assert table.save(ROW) is Change.STORED


def test_calls_that_differ_in_case_only_are_two_rows(table: PresentityTable, database: Database) -> None:
    """Kamailio's tables in MariaDB compare without case; a Call-ID has it (RFC 3261 section 20.8)."""
    calls = [made(Call_ID="aBcD"), made(Call_ID="AbCd")]
    assert [table.save(each) for each in calls] == [Change.STORED, Change.STORED]
    assert len(database.rows()) == 2


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ({"From": "sip:Alice@example.com"}, {"From": "sip:alice@example.com"}),
        ({"From": "sip:alice@Example.COM"}, {"From": "sip:alice@example.com"}),
        ({"From-User": "Zoë"}, {"From-User": "zoë"}),
        ({"From-User": "a%2fb"}, {"From-User": "a%2Fb"}),
    ],
    ids=["user", "domain", "unicode", "escaped"],
)
def test_names_that_differ_in_case_only_are_stored(
    table: PresentityTable, database: Database, name: dict[str, JsonValue], other: dict[str, JsonValue]
) -> None:
    """They share a row in MariaDB, which then returns another key than it was asked for."""
    one_row = database.name == "mariadb"
    assert table.save_all([made(4, 0, **name), made(5, 0, **name, Call_ID="other")]).changes == [
        Change.STORED,
        Change.STORED,
    ]
    assert table.save(made(5, 0, **other)) is Change.STORED
    assert len(database.rows()) == (2 if one_row else 3)
    later = [made(6, 0, **other), made(7, 0, State="confirmed", **name), made(8, 0, **name, Call_ID="other")]
    assert table.save_all(later).changes[1:] == [Change.STORED, Change.UNCHANGED]
    kept = {each["ruid"] for each in database.rows()}
    assert kept == {each.ruid for each in later[one_row:]}
    assert Change.UNCHANGED not in table.save_all([made(9, 0, **name), made(10, 0, State="confirmed", **other)]).changes


@pytest.mark.parametrize("column", ["username", "domain", "etag"])
def test_a_row_of_another_writer_with_a_blank_at_the_end(
    table: PresentityTable, database: Database, column: str
) -> None:
    """MariaDB takes it for the same key."""
    database.insert(ROW, **{column: f"{getattr(ROW, column)} "})
    later = [LATER, made(7, Call_ID="new")]
    assert table.save_all(later).changes == [Change.STORED, Change.STORED]
    assert {each.ruid for each in later} <= {each["ruid"] for each in database.rows()}


# Several writers


def test_nothing_is_hidden_between_the_look_and_the_write(database: Database) -> None:
    """Else a change back to what this process saw would count as none, and no NOTIFY would tell it.

    The table has `early`; another process writes `confirmed` just after this one looked, before this one writes
    `early` again.
    """
    with closing(database.table()) as one, closing(database.table()) as other:
        one.save(ROW)
        between, again = made(6, State="confirmed"), made(7)
        changes: list[Change] = []
        writer = threading.Thread(target=lambda: changes.append(other.save(between)))

        def interfere(*arguments: object) -> None:
            if str(arguments[2]).lstrip().startswith("SELECT") and not writer.ident:
                writer.start()
                writer.join(0.2)

        assert one._database._engine is not None
        sa.event.listen(one._database._engine, "after_cursor_execute", interfere)
        change = one.save(again)
        writer.join(10)
        assert database.rows() == [columns(again)]
        assert (change, changes) in ((Change.STORED, [Change.STORED]), (Change.UNCHANGED, [Change.STALE]))


@contextmanager
def writers(*targets: Callable[[], None]) -> Iterator[None]:
    """Run functions at once, and wait for their ends."""
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a writer waits for ever"


def test_writers_at_once_never_lose_the_later_state(database: Database) -> None:
    """Batches that overlap, of new rows and old ones, each writer in an order of its own."""
    states = ("trying", "early", "confirmed", "terminated")
    events = [made(number, Call_ID=f"c{number % 8}", State=states[number // 8]) for number in range(32)]
    failures: list[str] = []
    news: list[str] = []

    def write(seed: int) -> None:
        shuffler = random.Random(seed)
        with closing(database.table()) as own:
            for _ in range(3):
                left = shuffler.sample(events, len(events))
                while left:
                    batch = [left.pop() for _ in range(min(len(left), shuffler.randint(1, 9)))]
                    try:
                        changes = own.save_all(batch).changes
                    except DatabaseError as error:  # a deadlock, say: the messages come again
                        failures.append(str(error))
                        left[:0] = batch
                    else:
                        news.extend(e.ruid for e, c in zip(batch, changes, strict=True) if c is Change.STORED)

    with writers(*(lambda seed=seed: write(seed) for seed in range(3))):
        pass
    assert database.rows() == [columns(each) for each in events[24:]]
    assert len(failures) < 50, failures[:3]
    assert {each.ruid for each in events[24:]} <= set(news), "each end was news to somebody"


# Databases that do not do as told


def test_a_connection_that_the_server_ended_is_replaced(
    server_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESTED_S", 0)
    with closing(server_database.table()) as table:
        table.save(ROW)
        end_connections(server_database)
        assert table.save(LATER) is Change.STORED
        assert server_database.rows() == [columns(LATER)]


def test_a_connection_that_ended_between_two_busy_writes_fails_once(
    server_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESTED_S", 60)
    with closing(server_database.table()) as table:
        table.save(ROW)
        end_connections(server_database)
        with pytest.raises(DatabaseError):
            table.save(LATER)
        assert table.save(LATER) is Change.STORED


def test_a_connection_that_ends_inside_the_transaction_fails_once(server_database: Database) -> None:
    with closing(server_database.table()) as table:
        table.save(ROW)
        ended: list[None] = []

        def interfere(*arguments: object) -> None:
            if str(arguments[2]).lstrip().startswith("SELECT") and not ended:
                ended.append(None)
                end_connections(server_database)

        assert table._database._engine is not None
        sa.event.listen(table._database._engine, "after_cursor_execute", interfere)
        with pytest.raises(DatabaseError) as caught:
            table.save(LATER)
        assert len(str(caught.value).splitlines()) == 1
        assert server_database.rows() == [columns(ROW)]
        assert table.save(LATER) is Change.STORED


def test_a_server_that_is_down_fails_and_works_again_afterwards(server_database: Database) -> None:
    assert server_database.outage is not None
    with ExitStack() as stack:
        used, fresh = (stack.enter_context(closing(server_database.table())) for _ in range(2))
        used.save(ROW)
        with server_database.outage():
            calls: list[Callable[[], object]] = [
                *(lambda table=table: table.save(LATER) for table in (used, fresh)),
                used.search.find,
                lambda: used.search.expiring(0),
                lambda: used.search.forget(0),
                lambda: used.watched([("sip:a@x", "dialog")]),
            ]
            for call in calls:
                with pytest.raises(DatabaseError) as caught:
                    call()
                assert len(str(caught.value).splitlines()) == 1
        assert used.save(LATER) is Change.STORED
        assert fresh.save(LATER) is Change.STALE
        assert server_database.rows() == [columns(LATER)]


def test_who_waits_for_each_other_is_not_told(server_database: Database) -> None:
    """The database gives up one of two writers that wait for each other; ours begins again."""
    rows = [made(number, Call_ID=f"c{number}") for number in range(2)]
    update = sa.text("UPDATE presentity SET body = 'x' WHERE etag = :etag")
    with closing(server_database.table()) as table, server_database.engine.connect() as connection:
        # InnoDB gives up the one that has changed less.
        table.save_all([*rows, *(made(number, Call_ID=f"other{number}") for number in range(20))])
        other = connection.execution_options(isolation_level="READ COMMITTED")
        other.execute(sa.text("UPDATE presentity SET sender = 'x' WHERE etag LIKE '%other%'"))
        other.execute(update, {"etag": rows[1].etag})
        changes: list[Change | None] = []
        later = [made(number + 9, Call_ID=f"c{number}", State="confirmed") for number in range(2)]
        with writers(lambda: changes.extend(table.save_all(later).changes)):
            until(lambda: _waits(server_database), what="our writer to wait for the other one")
            other.execute(update, {"etag": rows[0].etag})
            other.commit()
        assert changes == [Change.STORED, Change.STORED]
        assert all(columns(row) in server_database.rows() for row in later)


def test_a_row_that_another_holds_for_long_fails(server_database: Database) -> None:
    with closing(server_database.table(IMPATIENT_S)) as table, server_database.engine.connect() as connection:
        table.save(ROW)
        other = connection.execution_options(isolation_level="READ COMMITTED")
        other.execute(sa.text("UPDATE presentity SET body = 'x'"))
        with pytest.raises(DatabaseError, match=r"[Ll]ock"):
            table.save(LATER)
        other.rollback()
        assert table.save(LATER) is Change.STORED


def test_a_second_round_that_fails_says_what_the_first_one_stored(server_database: Database) -> None:
    """Else nobody would tell the watchers: when the messages come again, those rows count as stale."""
    same, new, late = made(6), made(6, Call_ID="new"), made(1, Call_ID="new", State="trying")
    with closing(server_database.table(IMPATIENT_S)) as table, server_database.engine.connect() as connection:
        table.save(ROW)
        other = connection.execution_options(isolation_level="READ COMMITTED")
        other.execute(sa.text("UPDATE presentity SET sender = 'x'"))
        saved = table.save_all([same, new, late])
        assert saved.changes == [None, Change.STORED, None]
        assert isinstance(saved.failed, DatabaseError)
        assert re.search(r"[Ll]ock", str(saved.failed))
        other.rollback()
        assert table.save_all([same, new, late]).changes == [Change.UNCHANGED, Change.STALE, Change.STALE]


def test_a_row_that_another_holds_is_waited_for(server_database: Database) -> None:
    """Another transaction has the row; what is written then is still in order.

    Whether it saw the other's row before it waited, and so knows that its own was too late, is a matter of time.
    """
    with closing(server_database.table()) as table, server_database.engine.connect() as connection:
        table.save(ROW)
        other = connection.execution_options(isolation_level="READ COMMITTED")
        other.execute(sa.text("UPDATE presentity SET body = 'x', ruid = '9' WHERE username = 'alice'"))
        changes: list[Change | NsqError] = []
        with writers(lambda: changes.append(table.save(LATER))):
            other.commit()
        assert changes in ([Change.STALE], [Change.STORED])
        assert _body(server_database) == b"x"


@pytest.fixture
def locked(sqlite_database: Database) -> Iterator[sa.Connection]:
    """Yield a connection that holds SQLite's lock."""
    sqlite_database.clear()
    with sqlite_database.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.exec_driver_sql("ROLLBACK")


def test_a_locked_file_fails_within_the_busy_timeout(sqlite_database: Database, locked: sa.Connection) -> None:
    with closing(sqlite_database.table(0.05)) as table:
        for _ in range(2):
            with pytest.raises(DatabaseError, match="database is locked"):
                table.save(ROW)
        assert table.search.find() == [], "readers need no lock"
        locked.exec_driver_sql("ROLLBACK")
        locked.exec_driver_sql("BEGIN")
        assert table.save(ROW) is Change.STORED


def test_a_locked_file_is_waited_for(sqlite_database: Database, locked: sa.Connection) -> None:
    changes: list[Change] = []
    started = threading.Event()
    with closing(sqlite_database.table()) as table:

        def write() -> None:
            started.set()
            changes.append(table.save(ROW))

        with writers(write):
            assert started.wait(5)
            locked.exec_driver_sql("ROLLBACK")
            locked.exec_driver_sql("BEGIN")
            until(lambda: changes, what="the write")
    assert changes == [Change.STORED]


def end_connections(database: Database) -> None:
    """Let the server end all connections but the test's own."""
    if database.name == "postgresql":
        own = "datname = current_database() AND pid <> pg_backend_pid()"
        database.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {own}")
        return
    with database.engine.connect() as connection:
        mine = "id <> connection_id() AND db = database()"
        ids = connection.execute(sa.text(f"SELECT id FROM information_schema.processlist WHERE {mine}")).scalars().all()
        for each in ids:
            connection.execute(sa.text(f"KILL {each}"))


#: How many transactions wait for a lock.
_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
    # innodb_trx would be looked up in a cache, which is not renewed for who looks more often than every 0.1 s.
    "mariadb": "SELECT CAST(variable_value AS INTEGER) FROM information_schema.global_status "
    "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'",
}


def _waits(database: Database) -> bool:
    with database.engine.connect() as connection:
        return bool(connection.execute(sa.text(_WAITING[database.name])).scalar_one())


def _body(database: Database) -> bytes:
    (found,) = database.rows()
    body = found["body"]
    assert isinstance(body, bytes)
    return body


class Twice(Exception):
    """What PostgreSQL's driver raises of a row that is there twice."""

    sqlstate = "23505"


@pytest.mark.parametrize(("met", "refused"), [(1, False), (100, True)])
def test_a_row_that_another_writer_has_just_stored_is_looked_at_again(
    sqlite_database: Database, met: int, refused: bool
) -> None:
    """Two consumers may have one message: neither of them is at fault. What is there twice for good is refused."""
    tried: list[int] = []

    def work(_connection: sa.Connection) -> str:
        tried.append(1)
        if len(tried) <= met:
            raise sa.exc.IntegrityError("INSERT", None, Twice("presentity_ruid_idx"))
        return "stored"

    with closing(sqlite_database.table()) as table:
        if refused:
            with pytest.raises(RowRefused, match="presentity_ruid_idx"):
                table._database.run(work)
        else:
            assert table._database.run(work) == "stored"
            assert len(tried) == met + 1
