# SPDX-License-Identifier: GPL-2.0-or-later
"""What tells that an outage is over: a write that leaves no trace, and a handshake with nsqd."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from kemi_nsq.errors import ConnectionLost, DatabaseError, RowRefused
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.testing import FakeHost
from tests.support.nsqd import Nsqd
from tests.support.rows import NOW
from tests.support.settings import settings
from tests.support.tables import IMPATIENT_S, Database, emptied, made
from tests.support.wired import wired

#: A publisher keeps its connections as long as its process lives, so it has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TRANSPORTS = pytest.mark.parametrize("transport", ["tcp", "http"])


# The database


def test_a_trial_leaves_no_trace(database: Database, table: PresentityTable) -> None:
    table.save(made(1))
    before = database.rows()
    for _ in range(3):
        table.try_write()
    assert database.rows() == before
    assert table.search.forget(NOW - 1) == 0


def test_two_processes_may_try_at_once(server_database: Database) -> None:
    """The row of each has a name of its own, so neither waits for the other."""
    with closing(server_database.table()) as table, server_database.engine.connect() as other:
        other.execution_options(isolation_level="READ COMMITTED")
        columns = "username, domain, event, etag, expires, received_time, body, sender, ruid"
        with other.begin():
            values = "'kemi-nsq-trial', 'invalid', 'dialog', 'kemi-nsq-trial-1', -2, 0, 'x', '', 'kemi-nsq-trial-1'"
            other.exec_driver_sql(f"INSERT INTO presentity ({columns}) VALUES ({values})")
            began = time.monotonic()
            table.try_write()
            assert time.monotonic() - began < 2
            other.rollback()


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """Let new sessions of PostgreSQL read only."""
    database.execute("ALTER DATABASE kamailio SET default_transaction_read_only = on")
    try:
        yield
    finally:
        database.execute("SET default_transaction_read_only = off")
        database.execute("ALTER DATABASE kamailio RESET default_transaction_read_only")


def test_a_read_only_database_is_noticed_and_so_is_its_end(request: pytest.FixtureRequest) -> None:
    """A session that began while it was read-only stays so; the probe makes a new one."""
    database = emptied(request, "postgresql")
    with closing(database.table()) as table:
        with read_only(database):
            for _ in range(2):
                with pytest.raises(DatabaseError, match="read-only transaction"):
                    table.try_write()
            with table._database._connected() as connection:  # a read would say that all is well
                assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
        table.try_write()
        table.save(made(1))


def test_a_file_that_another_has_locked_is_noticed(request: pytest.FixtureRequest) -> None:
    database = emptied(request, "sqlite")
    with closing(database.table(IMPATIENT_S)) as table, database.engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="locked"):
            table.try_write()
        other.exec_driver_sql("ROLLBACK")
        table.try_write()


def test_a_table_that_takes_no_row_at_all_is_to_blame_not_the_message(server_database: Database) -> None:
    with closing(server_database.table()) as table:
        writer = wired(FakeHost(), settings(), table).writer
        change = {
            "postgresql": "ALTER TABLE presentity ALTER COLUMN username TYPE VARCHAR({})",
            "mariadb": "ALTER TABLE presentity MODIFY username VARCHAR({}) NOT NULL",
        }[server_database.name]
        server_database.execute(change.format(4))
        try:
            with pytest.raises(RowRefused):
                writer.commit([made(1)])
            with pytest.raises(DatabaseError, match="refuses"):
                writer.blame_table()
            with pytest.raises(DatabaseError, match="refuses"):
                writer.trial()
        finally:
            server_database.execute(change.format(64))
        writer.trial()
        writer.commit([made(1)])
        with pytest.raises(RowRefused):
            writer.commit([made(2, Call_ID="x")._replace(priority=None)])  # type: ignore[arg-type]
        writer.blame_table()


# nsqd


def publisher(nsqd: Nsqd, transport: str) -> Publisher:
    addresses = {"nsqd_tcp_address": nsqd.tcp_address, "nsqd_address": nsqd.http_address}
    return Publisher(settings(publish_transport=transport, publish_timeout="0.5", **addresses))


@TRANSPORTS
def test_a_trial_tells_whether_nsqd_is_there_and_has_it_tried_again_at_once(tmp_path: Path, transport: str) -> None:
    message = Outgoing(topic="t", body=b"{}")
    with Nsqd(tmp_path) as nsqd:
        tested = publisher(nsqd, transport)
        tested.trial()
        tested.publish(message)
        nsqd.stop()
        for _ in range(8):  # so that nsqd is left alone for seconds
            with pytest.raises(ConnectionLost):
                tested.publish(message)
            with pytest.raises(ConnectionLost, match="refused"):
                tested.trial()
        nsqd.start()
        tested.trial()
        tested.publish(message)
        assert nsqd.topic("t")["depth"] == 2


@TRANSPORTS
def test_a_frozen_nsqd_takes_no_longer_than_a_publish_may(tmp_path: Path, transport: str) -> None:
    with Nsqd(tmp_path) as nsqd:
        tested = publisher(nsqd, transport)
        tested.publish(Outgoing(topic="t", body=b"{}"))
        nsqd.freeze()
        began = time.monotonic()
        with pytest.raises(ConnectionLost):
            tested.trial()
        assert time.monotonic() - began < 2
        nsqd.thaw()
        tested.trial()
