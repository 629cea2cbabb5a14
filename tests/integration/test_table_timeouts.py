# SPDX-License-Identifier: GPL-2.0-or-later
"""NSQ_DB_TIMEOUT: whatever a database server does, the store says so in time, and works again afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
import sqlalchemy as sa

from kemi_nsq.errors import DatabaseError
from kemi_nsq.presence import database as module
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.table import PresentityTable
from tests.support.process import is_stopped
from tests.support.tables import Database, columns, emptied, made
from tests.support.until import until

TIMEOUT_S = 1.0
#: The driver looks at the clock ten times a second, and the machine may be busy.
LATE_S = 0.5
#: What the server itself gives up, it gives up a little earlier.
EARLY_S = 0.3
ROW, LATER = made(5), made(6, State="confirmed")


@contextmanager
def failing_in_time(match: str) -> Iterator[None]:
    """Expect a failure of the database, at the end of its time."""
    started = time.monotonic()
    with pytest.raises(DatabaseError, match=match) as caught:
        yield
    assert TIMEOUT_S - EARLY_S < time.monotonic() - started < TIMEOUT_S + LATE_S
    assert len(str(caught.value).splitlines()) == 1


def own_process(table: PresentityTable) -> int:
    """Return the process of PostgreSQL that serves a store's connection."""
    query = "SELECT pg_backend_pid()"
    return int(table._database.run(lambda connection: connection.exec_driver_sql(query).scalar_one()))


def test_a_frozen_server_fails_in_time_and_works_again_afterwards(server_database: Database) -> None:
    assert server_database.silence is not None
    with ExitStack() as stack:
        used, fresh = (stack.enter_context(closing(server_database.table(TIMEOUT_S))) for _ in range(2))
        used.save(ROW)
        with server_database.silence():
            calls: list[Callable[[], object]] = [
                lambda: used.save(LATER),
                lambda: fresh.save(LATER),
                used.search.find,
                lambda: used.search.expiring(0),
                lambda: used.search.forget(0),
                lambda: used.watched([("sip:a@x", "dialog")]),
            ]
            for call in calls:
                with failing_in_time("no answer within 1 s"):
                    call()
        # What was sent to the frozen server it may have done since.
        assert used.save(LATER) in (Change.STORED, Change.STALE)
        assert fresh.save(LATER) is Change.STALE
        assert server_database.rows() == [columns(LATER)]


def test_the_trial_of_a_rested_connection_has_no_time_of_its_own(
    server_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server_database.silence is not None
    monkeypatch.setattr(module, "_RESTED_S", 0)
    with closing(server_database.table(TIMEOUT_S)) as table:
        table.save(ROW)
        with server_database.silence(), failing_in_time("no answer within 1 s"):
            table.save(LATER)
        assert table.save(LATER) is Change.STORED


def test_a_server_that_freezes_inside_a_transaction_fails_in_time(server_database: Database) -> None:
    with ExitStack() as frozen, closing(server_database.table(TIMEOUT_S)) as table:
        table.save(ROW)

        def freeze(*arguments: object) -> None:
            if str(arguments[2]).lstrip().startswith("SELECT"):
                assert server_database.silence is not None
                frozen.enter_context(server_database.silence())

        assert table._database._engine is not None
        sa.event.listen(table._database._engine, "after_cursor_execute", freeze)
        with failing_in_time("no answer within 1 s"):
            table.save(LATER)
        sa.event.remove(table._database._engine, "after_cursor_execute", freeze)
        frozen.close()
        assert table.save(LATER) in (Change.STORED, Change.STALE)


def test_closing_a_store_does_not_wait_for_a_frozen_server(server_database: Database) -> None:
    assert server_database.silence is not None
    table = server_database.table(TIMEOUT_S)
    table.save(ROW)
    with server_database.silence():
        started = time.monotonic()
        table.close()
        assert time.monotonic() - started < TIMEOUT_S + LATE_S


def test_a_connection_that_was_cut_off_without_a_word_is_replaced_in_time(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a firewall: the server is well, but what is sent on the old connection comes to nobody."""
    postgresql = emptied(request, "postgresql")
    monkeypatch.setattr(module, "_RESTED_S", 0)
    with closing(postgresql.table(TIMEOUT_S)) as table:
        table.save(ROW)
        pid = own_process(table)
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: is_stopped(pid), what="the connection's process to stop")
            started = time.monotonic()
            assert table.save(LATER) is Change.STORED
            assert time.monotonic() - started < TIMEOUT_S
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_statement_that_takes_long_is_given_up_by_the_server(request: pytest.FixtureRequest) -> None:
    postgresql = emptied(request, "postgresql")
    with closing(postgresql.table(TIMEOUT_S)) as table:
        own = own_process(table)
        with failing_in_time("statement timeout"):
            table._database.run(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(10)"))
        assert own_process(table) == own, "its connection is as good as before"


def test_many_short_statements_have_one_deadline(server_database: Database) -> None:
    sleep = {"postgresql": "SELECT pg_sleep(0.3)", "mariadb": "SELECT sleep(0.3)"}[server_database.name]

    def work(connection: sa.Connection) -> None:
        for _ in range(10):
            connection.exec_driver_sql(sleep)

    with closing(server_database.table(TIMEOUT_S)) as table, failing_in_time("no answer within 1 s"):
        table._database.run(work)


def test_a_deadlock_that_comes_again_and_again_ends_in_time(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIES", 10**9)

    def work(connection: sa.Connection) -> None:
        raise sa.exc.OperationalError("INSERT", None, RuntimeError(1213, "Deadlock found"))

    with closing(sqlite_database.table(TIMEOUT_S)) as table, failing_in_time("Deadlock"):
        table._database.run(work)
