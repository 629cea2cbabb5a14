# SPDX-License-Identifier: GPL-2.0-or-later
"""The presentity table, through SQLAlchemy Core. `statements` has what differs between databases.

Table and columns are Kamailio's (lib/srdb1/schema/pr_presentity.xml, version 5).
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import sqlalchemy as sa

from kemi_nsq.database import Database
from kemi_nsq.errors import RowRefused, StoreError
from kemi_nsq.flow import Key
from kemi_nsq.presentity import ENDED_RANK, RANK_INDEX, RUID_LENGTH, TERMINATED_RANK, Row
from kemi_nsq.statements import CHANGED, KEY, Lookup, Write, lookup, upsert

_PAGE = 500
#: A row's user, domain, event package and etag.
RowKey: TypeAlias = tuple[str, str, str, str]


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
        watchers_table: name of the table of subscriptions, or '' if it does not tell who watches.
        timeout_s: seconds that each transaction may take.
    """

    def __init__(self, url: str, table: str, watchers_table: str = "", *, timeout_s: float = 5.0) -> None:
        self._database = Database(url, timeout_s)
        self._table = _presentity_table(table)
        backend, columns = self._database.backend, self._table.c
        wanted = columns.ruid, columns.body, columns.expires
        key = [columns[name] for name in KEY]
        self._look, self._look_locked = (lookup(backend, key, *wanted, locked=locked) for locked in (False, True))
        self._look_for_watchers: Lookup | None = None
        if watchers_table:
            self._look_for_watchers = lookup(backend, list(_watchers_table(watchers_table).c))
        self._write: Write | None = None

    @property
    def one_writer(self) -> bool:
        """Whether the database has one writer at a time, for which Kamailio's driver does not wait."""
        return self._database.backend == "sqlite"

    def prepare_file(self) -> None:
        """Put an SQLite file into WAL mode, so that its readers and its writer do not wait for each other."""
        self._database.prepare_file()

    def save(self, row: Row) -> Change:
        """Store one row, as `save_all` does."""
        return self.save_all([row])[0]

    def save_all(self, rows: Sequence[Row]) -> list[Change]:
        """Store rows, each unless the table has its key with an equal or greater `ruid`.

        What a row changes is read before the write, and another process may write in between. The later of the two rows
        is kept all the same; but the other may count as STORED, and then its watchers are told once too often.

        Returns:
            What each row did, in the order of `rows`.

        Raises:
            RowRefused: the database does not take one of the rows. None is stored, or, if a second round failed, those
                of the first; the error's `stored` has those of them whose watchers must hear of it.
            StoreError: the database was busy for too long or cannot be reached; the same holds.
        """
        latest = {_key(row): row for row in sorted(rows, key=_ruid)}
        # All writers take their locks in one order, so that two of them do not wait for each other.
        keys = sorted(latest)
        changes = self._save_round(latest, keys, locked=self.one_writer)
        unchanged = [key for key in keys if changes[key] is Change.UNCHANGED]
        if unchanged and not self.one_writer:
            try:
                changes |= self._save_round(latest, unchanged, locked=True)
            except (RowRefused, StoreError) as error:
                error.stored = tuple(latest[key] for key in keys if changes[key] is Change.STORED)
                raise
        return [changes[key] if latest[key := _key(row)] is row else Change.STALE for row in rows]

    def _save_round(
        self, latest: Mapping[RowKey, Row], keys: Sequence[RowKey], *, locked: bool
    ) -> dict[RowKey, Change]:
        """Write the rows of some keys in one transaction.

        Without locks, one that says what the table says already is left out. It is written in a second round, with
        locks: had another process changed the document in between, changing it back would look like no change, and
        nobody would be told. In one transaction with the others, two writers would often wait for each other.
        """
        look = self._look_locked if locked else self._look
        leave = (Change.STALE,) if locked else (Change.STALE, Change.UNCHANGED)

        def work(connection: sa.Connection) -> dict[RowKey, Change]:
            changes = dict.fromkeys(keys, Change.STORED) | _changes(latest, look(connection, keys))
            later = [latest[key] for key in keys if changes[key] not in leave]
            self._write = self._write or upsert(self._table, connection.dialect)
            if later:
                connection.exec_driver_sql(self._write.sql, self._write.parameters(later))
            return changes

        return self._database.run(work, writes=True)

    def find(self, below_id: int = sys.maxsize, **columns: str) -> list[tuple[int, Row]]:
        """Return some of our rows that are not over, by descending id, with the ids.

        So who goes on from the last one never meets rows that are made meanwhile.

        Args:
            below_id: only rows with a smaller id.
            columns: what columns of the row must be equal to.

        Raises:
            StoreError: the table could not be read.
        """
        table = self._table
        equal = (table.c[name] == value for name, value in columns.items())
        return self._rows(sa.and_(table.c.id < below_id, *equal))

    def expiring(self, until: int) -> list[Row]:
        """Return some of our rows that are not over and expire by an epoch second.

        Raises:
            StoreError: the table could not be read.
        """
        return [row for _, row in self._rows(self._table.c.expires <= until)]

    def forget(self, until: int) -> int:
        """Delete some of our rows that are over and expire by an epoch second; their watchers have been told.

        Nothing is locked where there is nothing to delete: InnoDB would make all writers wait for the search.

        Returns:
            How many were found.

        Raises:
            StoreError: the table could not be written.
        """
        table = self._table
        condition = _is_ours(table), _is_over(table), table.c.expires <= until
        page = sa.select(table.c.id).where(*condition).limit(_PAGE)
        found = self._database.run(lambda connection: connection.execute(page).scalars().all())
        if found:
            statement = sa.delete(table).where(table.c.id.in_(found), *condition)
            self._database.run(lambda connection: connection.execute(statement), writes=True)
        return len(found)

    def _rows(self, condition: sa.ColumnElement[bool]) -> list[tuple[int, Row]]:
        ours = _is_ours(self._table), sa.not_(_is_over(self._table))
        statement = sa.select(self._table).where(condition, *ours)
        page = statement.order_by(self._table.c.id.desc()).limit(_PAGE)
        found = self._database.run(lambda connection: connection.execute(page).mappings().all())
        names = (*KEY, *CHANGED)
        return [
            (row["id"], Row(**{**{name: row[name] for name in names}, "body": bytes(row["body"])})) for row in found
        ]

    def watched(self, keys: Sequence[Key]) -> frozenset[Key]:
        """Return those of some presentities and event packages to which somebody is subscribed, in whatever case.

        Kamailio finds subscriptions as the database compares, which MySQL and MariaDB do without case.

        Raises:
            StoreError: the table could not be read.
        """
        look = self._look_for_watchers
        if look is None:
            return frozenset(keys)
        found = self._database.run(lambda connection: {(uri.lower(), event) for uri, event in look(connection, keys)})
        return frozenset(key for key in keys if (key[0].lower(), key[1]) in found)

    def close(self) -> None:
        """Close the connections of this process."""
        self._database.close()


_key: Callable[[Row], RowKey] = attrgetter(*KEY)
_ruid: Callable[[Row], str] = attrgetter("ruid")


def _changes(latest: Mapping[RowKey, Row], found: Iterable[Sequence[Any]]) -> dict[RowKey, Change]:
    """Tell what rows do to those that were found in the table."""
    changes = {}
    for user, domain, event, etag, ruid, body, expires in found:
        row = latest.get(key := (user, domain, event, etag))
        # MySQL and MariaDB compare without case and without blanks at the end, so this may be the row of `Alice` where
        # that of `alice` was asked for. Ours then counts as new: at worst its watchers are told too often.
        if row is None:
            continue
        # A row without ruid is another writer's, from before us: ours is newer.
        if ruid is not None and ruid >= row.ruid:
            change = Change.STALE
        # Whoever subscribed after the old row had expired was not shown it.
        elif body == row.body and expires > row.received_time:
            change = Change.UNCHANGED
        else:
            change = Change.STORED
        changes[key] = change
    return changes


def _presentity_table(name: str) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        *(sa.Column(column, sa.String) for column in ("username", "domain", "event", "etag", "sender", "ruid")),
        *(sa.Column(column, sa.Integer) for column in ("expires", "received_time", "priority")),
        sa.Column("id", sa.BigInteger),
        sa.Column("body", sa.LargeBinary),
    )


def _is_ours(table: sa.Table) -> sa.ColumnElement[bool]:
    """Kamailio's own ruids are shorter (core/utils/sruid.h, SRUID_SIZE)."""
    return sa.func.length(table.c.ruid) == RUID_LENGTH


def _is_over(table: sa.Table) -> sa.ColumnElement[bool]:
    """A row is over when the rank in its order key says so."""
    rank = sa.func.substr(table.c.ruid, RANK_INDEX + 1, 1)
    return rank.in_([str(TERMINATED_RANK), str(ENDED_RANK)])


def _watchers_table(name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), *(sa.Column(column, sa.String) for column in ("presentity_uri", "event")))
