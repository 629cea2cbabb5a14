# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection to Kamailio's database: opened when it is first needed, kept, and given up when it fails.

It is opened late because nothing that Kamailio's children would share may be open before the fork.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import parse_qsl

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import IsolationLevel

from kemi_nsq.clock import Clock
from kemi_nsq.databaseurl import DRIVERS, kamailio_url
from kemi_nsq.delays import breaker_delay_s
from kemi_nsq.errors import DatabaseError, RowRefused
from kemi_nsq.filename import path_of, readable
from kemi_nsq.presence.drivers import CONNECTORS, Deadline
from kemi_nsq.sqlitefile import OpenFile, identity, not_writable

_TRIES = 5
#: PostgreSQL: deadlock_detected, unique_violation.
_RACES = ("40P01", "23505")
#: A connection that rested for longer is tried before it is used: the server may have been started anew meanwhile.
_RESTED_S = 1.0
# MySQL's default, REPEATABLE READ, locks the gaps where rows are not: two writers of new rows would meet in deadlocks.
_ENGINE_ARGUMENTS: Mapping[str, Mapping[str, IsolationLevel]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "READ COMMITTED"},
    "mysql": {"isolation_level": "READ COMMITTED"},
}
#: How a statement marks its parameters: by position, on each.
_MARKS: Mapping[str, Literal["qmark", "format"]] = {"sqlite": "qmark", "postgresql": "format", "mysql": "format"}


Result = TypeVar("Result")


class Database:
    """One connection, for one thread.

    Args:
        url: in Kamailio's form or SQLAlchemy's: `databaseurl`.
        timeout_s: seconds that a piece of work may take, whatever the server does. Kamailio's main loop waits as well.
        clock: tells the time.
        say: takes a line that the operator shall read.
        read_only: write nothing; the database itself holds us to that.

    Attributes:
        backend: SQLAlchemy's name of the database: `sqlite`, `postgresql` or `mysql`.
        fails_fast: leave a database that failed alone for a growing time, up to 5 seconds. Else each caller in a SIP
            worker would wait for all of the timeout.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float,
        clock: Clock,
        say: Callable[[str], None],
        *,
        read_only: bool = False,
    ) -> None:
        self._clock = clock
        self._say = say
        self._read_only = read_only
        self._url = sqlalchemy_url(url)
        self._login_hint = _login_hint(url)
        self._deadline = Deadline(timeout_s, clock)
        self.backend = self._url.get_backend_name()
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None
        self._file: OpenFile | None = None
        self._used_at = 0.0
        self.fails_fast = False
        self._failures, self._closed_until = 0, 0.0
        self._writes = False

    def run(
        self, work: Callable[[sa.Connection], Result], *, writes: bool = False, limit_s: float | None = None
    ) -> Result:
        """Do some work in one transaction, all of it or nothing; return what it returns.

        Two writers may each wait for the other: then the database gives up one of them, whose work is done again. So is
        that of one that met the same new row of another: PostgreSQL's ON CONFLICT looks at one unique index, and the
        other one, of ruid, may be met first.

        Args:
            work: is given the connection.
            writes: take an SQLite file's one lock for writers at the beginning, so that nobody writes between what the
                work reads and what it writes.
            limit_s: seconds that it may take, if that is less than usual.

        Raises:
            RowRefused: the database does not take a value.
            DatabaseError: it was busy for too long, gave no answer in time or cannot be reached; or it failed a moment
                ago and is left alone.
        """
        if self.fails_fast and self._clock.monotonic() < self._closed_until:
            raise DatabaseError(f"the database is left alone after {self._failures} failures")
        try:
            self._follow_file()
            self._deadline.start(limit_s)
            self._writes = writes
            result = self._try(work)
            if self._file is not None and not self._file.has_its_name():
                raise DatabaseError("the file was deleted or replaced while it was used")
        except DatabaseError:
            self._failures += 1
            self._closed_until = self._clock.monotonic() + breaker_delay_s(self._failures)
            raise
        if self._file is not None:
            self._file.settle()
        self._failures = 0
        self._used_at = self._clock.monotonic()
        return result

    def _try(self, work: Callable[[sa.Connection], Result]) -> Result:
        for tries_left in reversed(range(_TRIES)):
            try:
                connection = self._connected()
                with connection.begin():
                    return work(connection)
            except sa.exc.SQLAlchemyError as error:
                self._rest()
                if tries_left and _is_race(error) and not self._deadline.over:
                    continue
                if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError):
                    raise RowRefused(f"the database refuses it: {_cause(error)}") from error
                hint = self._not_writable() or self._login_hint * _is_login_refused(error)
                raise DatabaseError(_cause(error) + hint) from error
        raise AssertionError("the last try returns or raises")

    def _not_writable(self) -> str:
        """Name what of an SQLite file we may not write: often root, by trying something, has made one of these."""
        path = self._url.database
        names = not_writable(path) if self.backend == "sqlite" and path else []
        return f" (user {os.geteuid()} may not write {readable(', '.join(names))})" if names else ""

    def prepare_file(self) -> None:
        """Put an SQLite file into WAL mode, and close it again: before the fork.

        Kamailio's own setting for it (db_sqlite, `db_set_journal_mode`) works in each process as it connects. They do
        so all at once and do not wait for each other, and Kamailio 5.6 ends if one of them fails.
        """
        if self.backend != "sqlite" or not os.path.exists(self._url.database or ""):
            return
        with suppress(DatabaseError):  # who needs the file will meet the same, and says so
            self.run(lambda _connection: None)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._deadline.start()
        self._rest()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        self._file = None

    def _connected(self) -> sa.Connection:
        if self._clock.monotonic() - self._used_at > _RESTED_S:
            self._deadline.spare_half()
            self._rest()
        if self._connection is None:
            self._deadline.spare_half()
            try:
                self._engine = self._engine or self._make_engine()
                self._connection = self._engine.connect()
            except (TypeError, ValueError) as error:  # the driver's own; its text may hold a part of the password
                raise DatabaseError(
                    f"the driver does not take NSQ_DB_URL ({type(error).__name__}): is an option in it wrong?"
                ) from None
            self._deadline.spend()
        return self._connection

    def _follow_file(self) -> None:
        """Leave an SQLite file that was deleted or replaced: nobody would read what is written there."""
        path = self._url.database
        if self.backend != "sqlite" or not path:
            return
        if self._file is not None and not self._file.has_its_name():
            self._leave_file(self._file)
            self._say(
                f"the database {readable(path)} was deleted or replaced: what is at its path now is used here, but "
                "Kamailio's own modules still read the old file, and lamps are wrong, until Kamailio is restarted"
            )
        if self._file is None:
            if identity(path) is None:  # SQLite would make an empty one
                raise DatabaseError(f"there is no file {readable(path)}")
            self._file = OpenFile(path)

    def _leave_file(self, file: OpenFile) -> None:
        self._rest()
        if self._engine is not None:
            # What its `-wal` holds goes into it, wherever it is now.
            self._writes = False
            with suppress(sa.exc.SQLAlchemyError), self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint")
        try:
            file.give_up()
        except OSError as error:
            raise DatabaseError(f"the -wal and -shm of an old file are in the way: {error}") from error
        self.close()

    def _rest(self) -> None:
        """Give the connection back to the engine, which tries it before it gives it out again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _make_engine(self) -> sa.Engine:
        engine = sa.create_engine(
            self._url,
            connect_args=_connect_arguments(self.backend, self._deadline.span_s),
            paramstyle=_MARKS[self.backend],
            pool_pre_ping=True,
            **_ENGINE_ARGUMENTS[self.backend],
        )
        sa.event.listen(engine, "connect", self._prepare)
        if self.backend == "sqlite":
            sa.event.listen(engine, "begin", self._begin_sqlite)
        else:
            connect = CONNECTORS[self.backend](self._deadline)
            sa.event.listen(engine, "do_connect", partial(self._connect, connect))
        return engine

    def _connect(
        self,
        connect: Callable[..., sa.engine.interfaces.DBAPIConnection],
        _dialect: sa.Dialect,
        _record: object,
        arguments: Sequence[object],
        named: Mapping[str, object],
    ) -> sa.engine.interfaces.DBAPIConnection:
        # What came before was the trial of an old connection, which may have been cut off without a word.
        self._deadline.spend()
        return connect(*arguments, **named)

    def _prepare(self, connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        if self.backend == "sqlite":
            # The driver would begin at the first write, too late for what was read before; `_begin_sqlite` does it.
            connection.isolation_level = None
            if self._read_only:  # whatever others have written there
                connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        cursor = connection.cursor()
        for statement in _first_statements(self.backend, self._deadline.span_s, read_only=self._read_only):
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    def _begin_sqlite(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if self._writes else "BEGIN")


def sqlalchemy_url(url: str) -> sa.URL:
    """Return the URL of a database, given in Kamailio's form or in SQLAlchemy's, as our drivers are given it."""
    parts = kamailio_url(url)
    if parts is None:
        made = sa.make_url(url)
    else:
        made = sa.URL.create(
            DRIVERS[parts.scheme],
            username=parts.user,
            password=parts.password,
            host=parts.host or None,
            port=parts.port,
            database=parts.database,
            query=dict(parse_qsl(parts.options or "")),
        )
    return made.set(database=path_of(made.database)) if made.get_backend_name() == "sqlite" and made.database else made


def _login_hint(url: str) -> str:
    """Return what to say where a login is refused: until 2026-11 `%40` was decoded in any form of URL."""
    parts = kamailio_url(url)
    if parts is None or not re.search("%[0-9A-Fa-f]{2}", f"{parts.user}:{parts.password}"):
        return ""
    return f"; a %XX in the user or password of {parts.scheme}: in NSQ_DB_URL is not decoded: write the letter itself"


def _is_login_refused(error: sa.exc.SQLAlchemyError) -> bool:
    """By MySQL's number (ER_ACCESS_DENIED_ERROR); PostgreSQL's driver has only the text for what ends a connect."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    return getattr(original, "args", ())[:1] == (1045,) or "authentication failed" in str(original)


#: What we commit is durable before nsqd hears that the event is done, also where the role has `synchronous_commit` off
#: for the sake of Kamailio's presence module. Any stricter value stays.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


def _connect_arguments(backend: str, timeout_s: float) -> dict[str, object]:
    """Return what the driver is told. A name may have two addresses: no try of one takes all the time."""
    if backend == "sqlite":
        return {"timeout": timeout_s}
    if backend == "postgresql":
        # The encoding is ours, whatever the database's: in SQL_ASCII the driver would return bytes for text.
        return {"connect_timeout": max(2, math.ceil(timeout_s / 2)), "client_encoding": "utf8"}
    return {"connect_timeout": timeout_s / 2, "charset": "utf8mb4"}


def _first_statements(backend: str, timeout_s: float, *, read_only: bool) -> list[str]:
    """Return what each new connection is told. Waits end a little before our own deadline, so that they say why."""
    if backend == "sqlite":
        # Readers and the writer do not wait for each other; in journal mode DELETE Kamailio meets "database is locked".
        return ["PRAGMA query_only=ON" if read_only else "PRAGMA journal_mode=WAL"]
    if backend == "postgresql":
        # A plan that was kept since the table was small would read all of it.
        limits = f"SET lock_timeout = {timeout_s * 800:.0f}; SET statement_timeout = {timeout_s * 900:.0f}"
        reading = ["SET default_transaction_read_only = on"] if read_only else []
        return [f"{limits}; SET plan_cache_mode = force_custom_plan; {_DURABLE}", *reading]
    # The locks of rows, and those of whole tables (LOCK TABLES, ALTER), in whole seconds.
    seconds = max(1, int(timeout_s * 0.8))
    limits = f"SET SESSION innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
    # The variable for it has one name in MySQL and another in MariaDB before 11.1.
    return [limits, *(["SET SESSION TRANSACTION READ ONLY"] if read_only else [])]


def _is_race(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether another writer was there at the same time: a deadlock, or a row that is there twice.

    By PostgreSQL's SQLSTATE, or MySQL's number (ER_LOCK_DEADLOCK, ER_DUP_ENTRY).
    """
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    return getattr(original, "sqlstate", None) in _RACES or getattr(original, "args", ())[:1] in ((1213,), (1062,))


def _cause(error: sa.exc.SQLAlchemyError) -> str:
    """Return the driver's words, or SQLAlchemy's first line of its own, on one line."""
    text = str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error).partition("\n")[0]
    return " ".join(text.split())
