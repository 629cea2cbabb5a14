# SPDX-License-Identifier: GPL-2.0-or-later
"""The presentity table in SQLite: order, duplicates, other writers, and a database that does not do as told."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from kemi_nsq.errors import DatabaseError, RowRefused
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.row import Row
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.sqlitefile import not_writable
from tests.support.database import create_database, rows
from tests.support.until import until

ROW = Row(
    username="alice",
    domain="example.com",
    event="dialog",
    etag="dialog.call.from/1/1",
    expires=2_000_000_000,
    received_time=1_700_000_000,
    body=b"<dialog-info/>",
    sender="sip:alice@example.com",
    ruid="00000000000000000005.3.0000000000000000.x",
)
EARLIER = "00000000000000000004.5.ffffffffffffffff.x"
LATER = "00000000000000000006.1.0000000000000000.x"


def columns(row: Row) -> dict[str, object]:
    names = ("username", "domain", "event", "etag", "expires", "received_time", "body", "sender", "priority", "ruid")
    return {name: getattr(row, name) for name in names}


def stored(path: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "id"} for row in rows(path)]


def execute(path: Path, statement: str, *values: object, timeout: float = 5) -> None:
    with closing(sqlite3.connect(path, timeout=timeout)) as database, database:
        database.execute(statement, values)


def test_nothing_is_opened_before_the_first_write(tmp_path: Path) -> None:
    PresentityTable(f"sqlite+pysqlite:///{tmp_path}/none.db", "presentity").close()
    assert not (tmp_path / "none.db").exists()


def test_a_new_row_is_stored_as_it_is(table: PresentityTable, path: Path) -> None:
    row = ROW._replace(body=b"\xc3\xa4\xff", priority=7, username="o%27neill")
    assert table.save(row) is Change.STORED
    assert stored(path) == [columns(row)]


def test_a_later_row_replaces_an_earlier_one(table: PresentityTable, path: Path) -> None:
    table.save(ROW)
    later = ROW._replace(ruid=LATER, body=b"<other/>", expires=7, received_time=8, sender="x", priority=9)
    assert table.save(later) is Change.STORED
    assert stored(path) == [columns(later)]


def test_the_same_row_again_changes_nothing(table: PresentityTable, path: Path) -> None:
    table.save(ROW)
    assert table.save(ROW._replace(expires=1, body=b"<other/>")) is Change.STALE
    assert stored(path) == [columns(ROW)]


def test_an_earlier_row_changes_nothing(table: PresentityTable, path: Path) -> None:
    table.save(ROW)
    assert table.save(ROW._replace(ruid=EARLIER, body=b"<other/>")) is Change.STALE
    assert stored(path) == [columns(ROW)]


def test_the_same_document_is_kept_longer_and_nobody_need_know(table: PresentityTable, path: Path) -> None:
    table.save(ROW)
    later = ROW._replace(ruid=LATER, expires=2_000_000_099)
    assert table.save(later) is Change.UNCHANGED
    assert stored(path) == [columns(later)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_whatever_the_order_the_latest_stays(table: PresentityTable, path: Path, order: tuple[int, ...]) -> None:
    events = [ROW._replace(ruid=f"{number}.x", body=b"%d" % number) for number in range(4)]
    changes = [table.save(events[number]) for number in order]
    assert stored(path) == [columns(events[3])]
    newest = [max(order[: position + 1]) == number for position, number in enumerate(order)]
    assert changes == [Change.STORED if is_newest else Change.STALE for is_newest in newest]


@pytest.mark.parametrize("name", ["username", "domain", "event", "etag"])
def test_each_part_of_the_key_makes_another_row(table: PresentityTable, path: Path, name: str) -> None:
    other = ROW._replace(ruid=EARLIER, **{name: "other"})  # type: ignore[arg-type]
    assert [table.save(ROW), table.save(other)] == [Change.STORED, Change.STORED]
    assert stored(path) == [columns(ROW), columns(other)]


@pytest.mark.parametrize(
    ("body", "change"), [(b"<foreign/>", Change.STORED), (ROW.body, Change.UNCHANGED)], ids=["other", "same"]
)
def test_a_row_of_another_writer_without_ruid_is_older(
    table: PresentityTable, path: Path, body: bytes, change: Change
) -> None:
    foreign = columns(ROW._replace(body=body)) | {"ruid": None}
    names = ", ".join(foreign)
    execute(path, f"INSERT INTO presentity ({names}) VALUES ({', '.join('?' * len(foreign))})", *foreign.values())
    assert table.save(ROW) is change
    assert stored(path) == [columns(ROW)]


def test_a_row_that_the_presence_module_has_deleted_is_new_again(table: PresentityTable, path: Path) -> None:
    table.save(ROW)
    execute(path, "DELETE FROM presentity")
    assert table.save(ROW._replace(ruid=EARLIER)) is Change.STORED
    assert len(stored(path)) == 1


def test_rows_written_together_say_each_what_they_did(table: PresentityTable, path: Path) -> None:
    table.save(ROW._replace(etag="same"))
    table.save(ROW._replace(etag="old", ruid=LATER))
    batch = [
        ROW._replace(etag="new", ruid="2", body=b"2"),
        ROW._replace(etag="new", ruid="1", body=b"1"),
        ROW._replace(etag="same", ruid="9"),
        ROW._replace(etag="old", ruid="0000", body=b"late"),
    ]
    assert table.save_all(batch).changes == [Change.STORED, Change.STALE, Change.UNCHANGED, Change.STALE]
    assert {row["etag"]: row["body"] for row in stored(path)} == {"new": b"2", "same": ROW.body, "old": ROW.body}


def test_rows_written_together_are_written_all_or_none(table: PresentityTable, path: Path) -> None:
    with pytest.raises(RowRefused, match=r"UNIQUE constraint failed: presentity\.ruid"):
        table.save_all([ROW._replace(etag="a"), ROW._replace(etag="b")])
    assert stored(path) == []
    assert table.save(ROW) is Change.STORED, "the connection can be used further"


def test_the_database_gets_wal_and_keeps_it(table: PresentityTable, path: Path) -> None:
    table.save(ROW)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_reader_does_not_hold_up_the_writer(table: PresentityTable, path: Path) -> None:
    table.save(ROW)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM presentity").fetchall()
        assert table.save(ROW._replace(ruid=LATER, body=b"x")) is Change.STORED


def test_nobody_writes_between_the_look_and_the_write(table: PresentityTable, path: Path) -> None:
    """Else a change back to what this process saw last would count as none, and no NOTIFY would tell it."""
    refused: list[str] = []

    def interfere(*arguments: object) -> None:
        if str(arguments[2]).startswith("SELECT"):
            with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
                execute(path, "UPDATE presentity SET body = 'foreign'", timeout=0)
            refused.append(str(caught.value))

    table.save(ROW)
    assert table._database._engine is not None
    sa.event.listen(table._database._engine, "after_cursor_execute", interfere)
    assert table.save(ROW._replace(ruid=LATER)) is Change.UNCHANGED
    assert len(refused) == 1


def test_stores_of_several_processes_agree(path: Path) -> None:
    """Four writers, each with a connection of its own, write the same rows in orders of their own."""
    events = [ROW._replace(etag=f"e{number % 5}", ruid=f"{number:03}") for number in range(50)]
    events = [event._replace(body=event.ruid.encode()) for event in events]
    changes: list[tuple[str, Change]] = []
    start = threading.Barrier(4)

    def write(step: int) -> None:
        with closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentity")) as own:
            start.wait(5)
            for position in range(50):
                event = events[position * step % 50]
                changes.append((event.ruid, own.save(event)))

    writers = [threading.Thread(target=write, args=(step,)) for step in (1, 3, 7, 49)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert len(changes) == 200
    assert sorted(str(row["ruid"]) for row in stored(path)) == ["045", "046", "047", "048", "049"]
    stored_events = [ruid for ruid, change in changes if change is Change.STORED]
    assert len(stored_events) == len(set(stored_events)), "each event is news once"
    assert Change.UNCHANGED not in {change for _, change in changes}


# Databases that do not do as told


def impatient(path: Path) -> closing[PresentityTable]:
    return closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentity", timeout_s=0.05))


def test_a_locked_database_fails_within_the_busy_timeout(path: Path) -> None:
    with impatient(path) as table, closing(sqlite3.connect(path, isolation_level=None)) as other:
        table.save(ROW)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="database is locked"):
            table.save(ROW._replace(ruid=LATER))
        other.execute("ROLLBACK")
        assert table.save(ROW._replace(ruid=LATER, body=b"x")) is Change.STORED, "it works once the lock is gone"


def test_a_database_that_is_locked_at_the_first_write(path: Path) -> None:
    with impatient(path) as table, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseError, match="database is locked"):
            table.save(ROW)
        other.execute("ROLLBACK")
        assert table.save(ROW) is Change.STORED


def test_a_missing_table(path: Path) -> None:
    with (
        closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentities")) as table,
        pytest.raises(DatabaseError, match="no such table: presentities"),
    ):
        table.save(ROW)


def test_a_table_without_the_unique_index(path: Path) -> None:
    execute(path, "CREATE TABLE plain AS SELECT * FROM presentity")
    with (
        closing(PresentityTable(f"sqlite+pysqlite:///{path}", "plain")) as table,
        pytest.raises(DatabaseError, match="ON CONFLICT"),
    ):
        table.save(ROW)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with (
        closing(PresentityTable(f"sqlite+pysqlite:///{tmp_path}/none/kamailio.db", "presentity")) as table,
        pytest.raises(DatabaseError, match="there is no file /"),
    ):
        table.save(ROW)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database" * 100)
    with (
        closing(PresentityTable(f"sqlite+pysqlite:///{tmp_path}/text.db", "presentity")) as table,
        pytest.raises(DatabaseError, match="file is not a database"),
    ):
        table.save(ROW)


@pytest.mark.parametrize("url", ["u:20ac@127.0.0.1:1/db?chrset=x", "u:20ac@h/db?read_timeout=x"])
def test_a_url_that_the_driver_does_not_take_is_an_outage_and_not_repeated(url: str) -> None:
    with (
        closing(PresentityTable(f"mysql+pymysql://{url}", "presentity")) as table,
        pytest.raises(DatabaseError, match="the driver does not take NSQ_DB_URL") as caught,
    ):
        table.search.newest()
    assert caught.value.__cause__ is None
    assert "20ac" not in str(caught.value)


def test_the_error_is_one_line(path: Path) -> None:
    with (
        closing(PresentityTable(f"sqlite+pysqlite:///{path}", "none")) as table,
        pytest.raises(DatabaseError) as caught,
    ):
        table.save(ROW)
    assert len(str(caught.value).splitlines()) == 1


def test_a_database_that_failed_is_left_alone_for_a_while_where_a_caller_would_wait(path: Path) -> None:
    with impatient(path) as table, closing(sqlite3.connect(path, isolation_level=None)) as other:
        table.fail_fast()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="locked"):
            table.save(ROW)
        other.execute("ROLLBACK")
        with pytest.raises(DatabaseError, match="left alone after 1 failures"):
            table.save(ROW)
        assert until(lambda: _saved(table), what="the time to be over") is Change.STORED
        table.keep_trying()


def _saved(table: PresentityTable) -> Change | None:
    with suppress(DatabaseError):
        return table.save(ROW)
    return None


# A file that is deleted or replaced: nobody reads again what is written to it


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def followed(path: Path, lines: list[str]) -> Iterator[PresentityTable]:
    """Return a table with one row, in its -wal, beside another process that has it open, as Kamailio does."""
    url = f"sqlite+pysqlite:///{path}"
    with (
        closing(PresentityTable(url, "presentity", say=lines.append)) as table,
        closing(sqlite3.connect(path, isolation_level=None)) as kamailio,
    ):
        table.save(ROW)
        kamailio.execute("SELECT count(*) FROM presentity").fetchall()
        yield table


def the_line(lines: list[str], path: Path) -> None:
    (line,) = lines
    assert line.startswith(f"the database {path} was deleted or replaced")
    assert "until Kamailio is restarted" in line


def test_a_deleted_file_fails_until_there_is_one_again(followed: PresentityTable, path: Path, lines: list[str]) -> None:
    path.unlink()
    for _ in range(2):
        with pytest.raises(DatabaseError, match=f"there is no file {path}"):
            followed.save(ROW._replace(ruid=LATER))
    assert not path.exists(), "an empty one would help nobody"
    create_database(path)
    assert followed.save(ROW._replace(ruid=LATER)) is Change.STORED
    assert stored(path) == [columns(ROW._replace(ruid=LATER))]
    the_line(lines, path)


def test_a_file_in_its_place_is_used_as_it_is(
    followed: PresentityTable, path: Path, tmp_path: Path, lines: list[str]
) -> None:
    """SQLite would write what the old -wal holds over it."""
    other = ROW._replace(username="carol")
    with closing(PresentityTable(f"sqlite+pysqlite:///{create_database(tmp_path / 'new.db')}", "presentity")) as new:
        new.save(other)
    (tmp_path / "new.db").replace(path)
    assert followed.save(ROW._replace(ruid=EARLIER)) is Change.STORED
    assert stored(path) == [columns(other), columns(ROW._replace(ruid=EARLIER))]
    the_line(lines, path)


def test_a_file_that_was_moved_away_holds_all_that_was_in_it(
    followed: PresentityTable, path: Path, tmp_path: Path
) -> None:
    path.rename(tmp_path / "away.db")
    with pytest.raises(DatabaseError, match="there is no file"):
        followed.save(ROW)
    assert stored(tmp_path / "away.db") == [columns(ROW)]


def test_a_file_in_its_place_without_tables_says_so(followed: PresentityTable, path: Path, lines: list[str]) -> None:
    path.unlink()
    path.touch()
    with pytest.raises(DatabaseError, match="no such table: presentity"):
        followed.save(ROW._replace(ruid=LATER))
    the_line(lines, path)


def test_a_file_that_goes_while_a_row_is_written_is_a_failure(
    followed: PresentityTable, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = followed._database._try

    def and_then_it_goes(work: Callable[[sa.Connection], object]) -> object:
        done = real(work)
        path.unlink()
        return done

    monkeypatch.setattr(followed._database, "_try", and_then_it_goes)
    with pytest.raises(DatabaseError, match="deleted or replaced while it was used"):
        followed.save(ROW._replace(ruid=LATER))


def test_what_of_the_file_we_may_not_write_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everything, so this asks in the name of somebody who may not."""
    forbidden = {str(path.parent), f"{path}-shm"}
    for name in ("-wal", "-shm"):
        Path(f"{path}{name}").touch()
    monkeypatch.setattr("os.access", lambda name, *_, **__: str(name) not in forbidden)
    assert not_writable(str(path)) == [str(path.parent), f"{path}-shm"]
    with (
        closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentities")) as table,
        pytest.raises(
            DatabaseError, match=rf"no such table: presentities \(user \d+ may not write {path.parent}, {path}-shm\)"
        ),
    ):
        table.save(ROW)
