# SPDX-License-Identifier: GPL-2.0-or-later
"""The presentity table, through SQLAlchemy Core. The only module that imports `sqlalchemy`.

Table and columns are Kamailio's (lib/srdb1/schema/pr_presentity.xml, version 5). The engine is made at the first
write of a process, because nothing that Kamailio's children would share may be open before the fork.
"""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from kemi_nsq.errors import StoreError
from kemi_nsq.presentity import Row

#: How long a write waits for another process's write to the same SQLite file.
BUSY_TIMEOUT_S = 5.0
_KEY = ("username", "domain", "event", "etag")
_CHANGED = ("expires", "received_time", "body", "sender", "priority", "ruid")


class Change(enum.Enum):
    """What a row did to the table."""

    STORED = enum.auto()  #: a new document; watchers must hear of it
    UNCHANGED = enum.auto()  #: the same document, kept longer
    STALE = enum.auto()  #: the table has this state or a later one


class PresentityStore:
    """Writes presentity rows, never letting an older state overwrite a newer one.

    Args:
        url: SQLAlchemy URL of Kamailio's database.
        table: name of the presentity table.
    """

    def __init__(self, url: str, table: str) -> None:
        self._url = url
        self._table = _presentity_table(table)
        self._engine: sa.Engine | None = None
        self._read = sa.select(self._table.c.body).where(*(self._table.c[name] == sa.bindparam(name) for name in _KEY))
        self._write = self._conditional_upsert()

    def save(self, row: Row) -> Change:
        """Store a row and commit, unless the table has a row of the same key with an equal or greater `ruid`.

        Raises:
            StoreError: the database refused, was busy for too long or cannot be reached.
        """
        values = {name: getattr(row, name) for name in _KEY + _CHANGED}
        try:
            with self._connect() as connection, connection.begin():
                before = connection.execute(self._read, values).scalar()
                written = connection.execute(self._write, values).rowcount
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(_cause(error)) from error
        if not written:
            return Change.STALE
        return Change.UNCHANGED if before == row.body else Change.STORED

    def close(self) -> None:
        """Close the connections of this process."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _connect(self) -> sa.Connection:
        if self._engine is None:
            self._engine = sa.create_engine(self._url, connect_args={"timeout": BUSY_TIMEOUT_S})
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        return self._engine.connect()

    def _conditional_upsert(self) -> sa.Executable:
        """One statement decides and writes, so that two consumers cannot both think they are first."""
        statement = insert(self._table).values({name: sa.bindparam(name) for name in _KEY + _CHANGED})
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=list(_KEY),
            set_={name: new[name] for name in _CHANGED},
            # A row without ruid is another writer's, from before us: ours is newer.
            where=sa.or_(self._table.c.ruid.is_(None), self._table.c.ruid < new.ruid),
        )


def _presentity_table(name: str) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        *(sa.Column(column, sa.String) for column in ("username", "domain", "event", "etag", "sender", "ruid")),
        *(sa.Column(column, sa.Integer) for column in ("expires", "received_time", "priority")),
        sa.Column("body", sa.LargeBinary),
    )


def _prepare_sqlite(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
    """WAL lets Kamailio read while we write; in the journal mode DELETE it meets "database is locked"."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


def _cause(error: sa.exc.SQLAlchemyError) -> str:
    return str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error).splitlines()[0]
