# SPDX-License-Identifier: GPL-2.0-or-later
"""The presentity table, through SQLAlchemy Core. `statements` has what differs between databases.

Table and columns are Kamailio's (lib/srdb1/schema/pr_presentity.xml, version 5).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter, methodcaller

import sqlalchemy as sa

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.errors import DatabaseError, RowRefused
from kemi_nsq.presence.change import Change, Plan, RowKey, There, Who
from kemi_nsq.presence.database import Database
from kemi_nsq.presence.due import PAGE, due_of
from kemi_nsq.presence.row import Key, Row, reset_key, tombstone_expires
from kemi_nsq.presence.search import Search
from kemi_nsq.presence.statements import (
    KEY,
    Lookup,
    Write,
    any_reset,
    crowds,
    lookup,
    seats,
    trial_row,
    turning,
    upsert,
)

#: How often seats are looked at again because some dialogs ended meanwhile.
_LOOKS = 5
#: From so many senders on, asking first whether there was any reset costs less than a look for each.
_ASK_FOR_RESETS = 8


@dataclass(frozen=True, slots=True)
class Saved:
    """What was stored.

    Attributes:
        changes: what each row did, in the order in which they were given; None for one that is to be stored again.
        sizes: the bytes that the documents of some presentities now have, about: of those whose dialogs became fewer
            or more.
        reseated: presentities of which other dialogs are shown now.
        repeated: order keys of rows that say once more that something is over which is still shown.
        failed: why not all were stored, though some were, in a transaction of their own.
    """

    changes: list[Change | None]
    sizes: Mapping[Who, int] = field(default_factory=dict)
    reseated: Collection[Who] = ()
    repeated: Collection[str] = ()
    failed: RowRefused | DatabaseError | None = None


class PresentityTable:
    """Writes presentity rows, never letting an older state overwrite a newer one.

    Args:
        url: SQLAlchemy URL of Kamailio's database.
        table_name: that of the presentity table.
        watchers_table: name of the table of subscriptions, or '' if it does not tell who watches.
        max_dialogs: NSQ_PUA_MAX_DIALOGS.
        timeout_s: seconds that each transaction may take.
        clock: tells the time.
        say: takes a line that the operator shall read.

    Attributes:
        search: looks for rows that are due, or of somebody.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        url: str,
        table_name: str,
        watchers_table: str = "",
        *,
        max_dialogs: int = 0,
        timeout_s: float = 5.0,
        clock: Clock = SYSTEM,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._clock = clock
        self._database = Database(url, timeout_s, clock, say)
        self._table = presentity_table(table_name)
        self._max_dialogs = max_dialogs
        backend, columns = self._database.backend, self._table.c
        wanted = columns.ruid, columns.body, columns.expires
        key = [columns[name] for name in KEY]
        self._look, self._look_locked = (lookup(backend, key, *wanted, locked=locked) for locked in (False, True))
        self._look_for_crowds = crowds(backend, self._table)
        self._any_reset = any_reset(self._table)
        self._seats, self._turn = seats(self._table, exclusive=not self.one_writer), turning(self._table)
        self._due = due_of(self._table)
        self.search = Search(self._database, self._table)
        self._near: set[Who] = set()
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
        """Store one row, as `save_all` does; what it returns as `failed` is raised."""
        saved = self.save_all([row])
        if saved.failed:
            raise saved.failed
        return saved.changes[0] or Change.STALE

    def save_all(self, rows: Sequence[Row]) -> Saved:
        """Store rows, each unless the table has its key with an equal or greater `ruid`.

        What a row changes is read before the write, and another process may write in between. The later of the two rows
        is kept all the same; but the other may count as STORED, and then its watchers are told once too often.

        Raises:
            RowRefused: the database does not take one of the rows. None is stored.
            DatabaseError: the database was busy for too long or cannot be reached. None is stored.
        """
        latest = {_key(row): row for row in sorted(rows, key=_ruid)}
        # All writers take their locks in one order, so that two of them do not wait for each other.
        keys = sorted(latest)
        done = self._save_round(latest, keys, locked=self.one_writer)
        quiet = [key for key in keys if done.changes[key] in (Change.UNCHANGED, Change.HIDDEN)]
        if quiet and not self.one_writer:
            try:
                again = self._save_round(latest, quiet, locked=True)
            except (RowRefused, DatabaseError) as error:
                stored = {id(latest[key]) for key in keys if done.changes[key] is Change.STORED}
                return Saved([Change.STORED if id(row) in stored else None for row in rows], failed=error)
            done.changes |= again.changes
            done.sizes |= again.sizes
            done.promotions |= again.promotions
            done.near |= again.near
            done.unsettled |= again.unsettled
            done.repeated |= again.repeated
        changes = [done.changes[key] if latest[key := _key(row)] is row else Change.STALE for row in rows]
        return Saved([*changes], done.sizes, self._reseated(done, rows), done.repeated)

    def _reseated(self, done: Plan, rows: Sequence[Row]) -> set[Who]:
        """Settle presentities of which another process may have given seats at the same time, after the commit of both.

        Whoever commits last sees what the other has done.
        """
        changed = set(done.promotions) if self.one_writer else set()
        unsettled, near = (done.full, set[Who]()) if self.one_writer else (done.unsettled | done.promotions, done.near)
        if len(self._near) < PAGE:
            self._near |= unsettled | near  # by the next sweep
        if unsettled:
            with suppress(DatabaseError):  # the rows are stored
                changed.update(self._settle(unsettled, max(row.received_time for row in rows)))
            for presentity in changed:
                done.sizes.pop(presentity, None)  # no more what it is
        return changed

    def _save_round(self, latest: Mapping[RowKey, Row], keys: Sequence[RowKey], *, locked: bool) -> Plan:
        """Write the rows of some keys in one transaction.

        Without locks, one that leaves the document as it is is left out. It is written in a second round, with locks:
        had another process changed the document in between, changing it back would look like no change, and nobody
        would be told. In one transaction with the others, two writers would often wait for each other.
        """
        look = self._look_locked if locked else self._look
        resets = sorted({reset_key(sender) for sender in {latest[key].sender for key in keys}})
        leave = (Change.STALE,) if locked else (Change.STALE, Change.UNCHANGED, Change.HIDDEN)

        def work(connection: sa.Connection) -> Plan:
            # MySQL and MariaDB compare without case and without blanks at the end, so a row may be that of `Alice`
            # where that of `alice` was asked for. Ours then counts as new: at worst its watchers are told too often.
            no_reset = len(resets) >= _ASK_FOR_RESETS and connection.execute(self._any_reset).first() is None
            found = {
                (user, domain, event, etag): There(ruid, body, expires)
                for user, domain, event, etag, ruid, body, expires in look(
                    connection, keys if no_reset else [*resets, *keys]
                )
            }
            planned = Plan({key: latest[key] for key in keys}, found)
            now = 0
            if planned.wanting:
                now = max(row.received_time for row in latest.values())
                planned.seat(self._look_for_crowds(connection, planned.wanting, now), self._max_dialogs)
            self._put(connection, [row for key, row in planned.rows.items() if planned.changes[key] not in leave])
            # Elsewhere `_reseated` does it: here it would wait for rows of others that wait for ours.
            for presentity in planned.promotions if self.one_writer else ():
                self._reseat(connection, presentity, now)
            return planned

        return self._database.run(work, writes=True)

    def remember_reset(self, reset: Row) -> None:
        """Store that a sender was reset (`reset_row`), unless a later reset is stored.

        Raises:
            DatabaseError: the table could not be written.
        """
        self._database.run(lambda connection: self._put(connection, [reset]), writes=True)

    def _put(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Write rows, each unless the table has its key with an equal or greater `ruid`."""
        self._write = self._write or upsert(self._table, connection.dialect)
        if rows:
            connection.exec_driver_sql(self._write.sql, _parameters(self._write, rows))

    def hide(self, ruids: Sequence[str], *, until: int) -> None:
        """Hide rows that are over and were told: they stay as tombstones until an epoch second.

        A row that a later event has changed meanwhile has another `ruid`, and is left alone.

        Raises:
            DatabaseError: the table could not be written.
        """
        for start in range(0, len(ruids), PAGE):
            values = {"ruids": ruids[start : start + PAGE], "tombstone": tombstone_expires(until)}
            self._database.run(methodcaller("execute", self._due.hide, values), writes=True)

    def settle(self, now: int) -> list[Who]:
        """Show dialogs that wait where there is room by now, hide them where there are too many; name the presentities.

        Where others' rows have gone, where two gave seats at the same time, or a process ended between two steps, no
        row that was stored did it.

        Args:
            now: epoch seconds.

        Raises:
            DatabaseError: the table could not be written.
        """
        crowded = self._database.run(lambda connection: connection.execute(self._due.crowded).all())
        found = {(user, domain) for user, domain in crowded}
        found |= self._near
        self._near = set()
        return self._settle(found, now) if found else []

    def _settle(self, presentities: Collection[Who], now: int) -> list[Who]:
        return self._database.run(
            lambda connection: [each for each in sorted(presentities) if self._reseat(connection, each, now)],
            writes=True,
        )

    def _reseat(self, connection: sa.Connection, presentity: Who, now: int) -> bool:
        """Show as many live dialogs as there is room for, the oldest; return whether that changed anything."""
        turned = 0
        for _ in range(_LOOKS):
            shown, waiting = self._seats(connection, presentity, now)
            room = self._max_dialogs - len(shown) if self._max_dialogs else len(waiting)
            to_turn = waiting[:room] if room > 0 else shown[len(shown) + room :]
            done = self._turn(connection, to_turn)
            turned += done
            if done == len(to_turn):
                break  # else some ended since the look
        return turned > 0

    def fail_fast(self) -> None:
        """Leave a database that failed alone for a growing time."""
        self._database.fails_fast = True

    def keep_trying(self) -> None:
        """Try each time; who calls this knows when it makes sense."""
        self._database.fails_fast = False

    def try_write(self, limit_s: float | None = None) -> None:
        """Do a write that leaves no trace, over a new connection: a read would succeed on a full or read-only database.

        Args:
            limit_s: seconds that it may take, if that is less than NSQ_DB_TIMEOUT.

        Raises:
            RowRefused: the database does not take the row of the trial.
            DatabaseError: it takes no writes.
        """
        self._database.close()  # an old session may stay read-only when new ones are not
        row = trial_row(self._clock.entropy)
        delete = sa.delete(self._table).where(self._table.c.ruid == row["ruid"])

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(self._table).values(row))
            connection.execute(delete)

        try:
            self._database.run(work, writes=True, limit_s=limit_s)
        finally:
            self._database.close()  # its own limits were told the server

    def watched(self, keys: Sequence[Key]) -> frozenset[Key]:
        """Return those of some presentities and event packages to which somebody is subscribed, in whatever case.

        Kamailio finds subscriptions as the database compares, which MySQL and MariaDB do without case.

        Raises:
            DatabaseError: the table could not be read.
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


def _parameters(write: Write, rows: Sequence[Row]) -> list[tuple[object, ...]] | tuple[object, ...]:
    values = list(map(write.pick, rows))
    return tuple(map(list, zip(*values, strict=True))) if write.by_column else values


@lru_cache
def presentity_table(name: str) -> sa.Table:
    """Return the columns of the presentity table of this name."""
    return sa.Table(
        name,
        sa.MetaData(),
        *(sa.Column(column, sa.String) for column in ("username", "domain", "event", "etag", "sender", "ruid")),
        *(sa.Column(column, sa.Integer) for column in ("expires", "received_time", "priority")),
        sa.Column("id", sa.BigInteger),
        sa.Column("body", sa.LargeBinary),
    )


def _watchers_table(name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), *(sa.Column(column, sa.String) for column in ("presentity_uri", "event")))
