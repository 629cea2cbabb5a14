# SPDX-License-Identifier: GPL-2.0-or-later
"""What a database server may do to the store: another character set, a table that grew, a table that is locked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from kemi_nsq.errors import DatabaseError, RowRefused
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.table import PresentityTable
from tests.support.database import SCHEMAS, share_folder
from tests.support.tables import IMPATIENT_S, Database, emptied, made
from tests.support.until import until

ROW = made(1, From='"Zoë 李" <sip:alice@example.com>')


@pytest.fixture
def postgresql(request: pytest.FixtureRequest) -> Database:
    return emptied(request, "postgresql")


@contextmanager
def encoded(server: Database, encoding: str) -> Iterator[PresentityTable]:
    """Make a database of another encoding, with Kamailio's tables."""
    name = encoding.lower()
    server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    url = sa.make_url(server.url).set(database=name).render_as_string(hide_password=False)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"client_encoding": "utf8"})
    with engine.connect() as connection:
        for schema in SCHEMAS:
            connection.exec_driver_sql(share_folder("postgres").joinpath(schema).read_text(encoding="utf-8"))
    engine.dispose()
    try:
        with closing(PresentityTable(url, "presentity")) as table:
            yield table
    finally:
        server.execute(f"DROP DATABASE {name}")


def test_a_database_without_an_encoding_takes_everything(postgresql: Database) -> None:
    """PostgreSQL is installed so where the locale is C."""
    foreign = made(2, Call_ID="other", Sender_URI="sip:日本@pbx")
    with encoded(postgresql, "SQL_ASCII") as table:
        assert table.save_all([ROW, foreign]).changes == [Change.STORED, Change.STORED]
        assert table.save_all([ROW, foreign]).changes == [Change.STALE, Change.STALE]
        assert [row for _, row in table.search.find()] == [foreign, ROW]


def test_a_database_of_another_encoding_refuses_what_it_has_not(postgresql: Database) -> None:
    with encoded(postgresql, "LATIN1") as table:
        assert table.save(made(1, Sender_URI="sip:Zoë@pbx")) is Change.STORED
        with pytest.raises(RowRefused, match="has no equivalent in encoding"):
            table.save(made(2, Call_ID="other", Sender_URI="sip:日本@pbx"))


def test_a_kept_connection_reads_by_the_index_when_the_table_has_grown(postgresql: Database) -> None:
    """PostgreSQL would keep the plan that it made for the small table."""

    def count(kind: str) -> int:
        with postgresql.engine.connect() as connection:
            text = f"SELECT {kind} FROM pg_stat_user_tables WHERE relname = 'presentity'"
            return int(connection.execute(sa.text(text)).scalar_one())

    rows_of_the_table = 20_000
    postgresql.execute("ALTER TABLE presentity SET (autovacuum_enabled = off)")  # which would also renew the plan
    with closing(postgresql.table()) as table:
        for number in range(20):
            table.save(made(number, Call_ID=f"c{number}"))
        postgresql.execute(
            "INSERT INTO presentity (username, domain, event, etag, expires, received_time, body, sender, ruid)"
            " SELECT 'u' || n, 'example.com', 'dialog', 'e', 2000000000, 1, repeat('x', 700)::bytea, '', 'r' || n"
            f" FROM generate_series(1, {rows_of_the_table}) AS n"
        )
        read, indexed = count("seq_tup_read"), count("idx_scan")
        for number in range(20, 40):
            table.save(made(number, Call_ID=f"c{number}"))
    until(lambda: count("idx_scan") >= indexed + 20, what="the statistics of the reads")
    assert count("seq_tup_read") - read < rows_of_the_table
    postgresql.execute("ALTER TABLE presentity RESET (autovacuum_enabled)")


@pytest.mark.parametrize(("of_role", "ours"), [("off", "on"), ("local", "local"), ("on", "on")])
def test_what_we_commit_is_durable_also_where_the_role_does_not_wait_for_that(
    postgresql: Database, of_role: str, ours: str
) -> None:
    """Kamailio's presence module may have it so; an event is finished only when its row is on the disk."""
    postgresql.execute(f"ALTER ROLE CURRENT_USER SET synchronous_commit = {of_role}")
    try:
        with closing(PresentityTable(postgresql.url, "presentity")) as table:
            assert table.save(ROW) is Change.STORED
            found = table._database.run(lambda connection: connection.exec_driver_sql("SHOW synchronous_commit").all())
            assert found == [(ours,)]
    finally:
        postgresql.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")


def test_a_table_that_another_has_locked_fails(request: pytest.FixtureRequest) -> None:
    """Kamailio's presence module does that, unless `db_table_lock_type` is 0; so does an ALTER TABLE."""
    mariadb = emptied(request, "mariadb")
    with closing(mariadb.table(IMPATIENT_S)) as table, mariadb.engine.connect() as other:
        table.save(ROW)
        other.exec_driver_sql("LOCK TABLES presentity WRITE")
        with pytest.raises(DatabaseError, match="Lock wait timeout"):
            table.save(ROW)
        other.exec_driver_sql("UNLOCK TABLES")
        assert table.save(ROW) is Change.STALE


@pytest.fixture
def account(server_database: Database) -> Iterator[str]:
    """Make an account with the password `p@ss`; return a URL in Kamailio's form, with PASSWORD in its place."""
    url = sa.make_url(server_database.url)
    if server_database.name == "mariadb":
        scheme, name, word = "mysql", "guest@localhost", "IDENTIFIED BY"
    else:
        scheme, name, word = "postgres", "guest", "PASSWORD"
    server_database.execute(f"CREATE USER {name} {word} 'p@ss'")
    with asked_for_passwords(server_database) if scheme == "postgres" else nullcontext():
        yield f"{scheme}://guest:PASSWORD@{url.host}:{url.port}/{url.database}"
    server_database.execute(f"DROP USER {name}")


@contextmanager
def asked_for_passwords(server: Database) -> Iterator[None]:
    """Have PostgreSQL ask the user guest for a password, and nobody else (pg_hba.conf)."""
    url = sa.make_url(server.url)

    def asks() -> bool:
        try:
            psycopg.connect(host=url.host, port=url.port, dbname=url.database, user="guest").close()
        except psycopg.OperationalError:
            return True
        return False

    with server.engine.connect() as connection:
        rules = Path(connection.execute(sa.text("SHOW hba_file")).scalar_one())
    before = rules.read_text(encoding="utf-8")
    try:
        rules.write_text(f"host all guest 127.0.0.1/32 scram-sha-256\n{before}", encoding="utf-8")
        server.execute("SELECT pg_reload_conf()")
        until(asks, what="PostgreSQL to ask for a password")
        yield
    finally:
        rules.write_text(before, encoding="utf-8")
        server.execute("SELECT pg_reload_conf()")


def test_a_login_is_refused_where_kamailios_form_has_a_percent_sign_and_the_line_says_why(account: str) -> None:
    said = {}
    for password in ("p%40ss", "wrong"):
        with closing(PresentityTable(account.replace("PASSWORD", password), "presentity")) as table:
            with pytest.raises(DatabaseError) as caught:
                table.search.newest()
            said[password] = str(caught.value)
    assert "a %XX in the user or password of" in said["p%40ss"]
    assert "not decoded" in said["p%40ss"]
    assert "%" not in said["wrong"]
    assert not any("\n" in line or "p%40" in line for line in said.values())
