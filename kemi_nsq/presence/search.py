# SPDX-License-Identifier: GPL-2.0-or-later
"""What is looked for in the presentity table: states that are due, states of somebody, and what was written last.

The statements are in `due`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from operator import methodcaller
from typing import Any

import sqlalchemy as sa

from kemi_nsq.presence.database import Database
from kemi_nsq.presence.due import due_of
from kemi_nsq.presence.row import Key, Row, position_in, tombstone_expires, waiting_expires
from kemi_nsq.presence.statements import CHANGED, KEY


class Search:
    """Looks for rows of ours, a page of them at a time, and forgets those whose time is over.

    Args:
        database: where they are.
        table: the presentity table.
    """

    def __init__(self, database: Database, table: sa.Table) -> None:
        self._database = database
        self._columns = table.c
        self._due = due_of(table)

    def find(self, below_id: int = sys.maxsize, **columns: str) -> list[tuple[int, Row]]:
        """Return some of our rows that are not over, by descending id, with the ids.

        So who goes on from the last one never meets rows that are made meanwhile.

        Args:
            below_id: only rows with a smaller id.
            columns: what columns of the row must be equal to.

        Raises:
            DatabaseError: the table could not be read.
        """
        equal = (self._columns[name] == value for name, value in columns.items())
        return self._rows(self._due.living.where(self._columns.id < below_id, *equal), {})

    def expiring(self, until: int) -> list[Row]:
        """Return some of our rows that are not over and expire by an epoch second, waiting ones among them.

        Raises:
            DatabaseError: the table could not be read.
        """
        return [row for _, row in self._rows(self._due.ending, {"first": waiting_expires(until), "last": until})]

    def lingering(self, until: int, *, expiring: tuple[int, int]) -> list[Row]:
        """Return some of our rows that have been over at least since an epoch second, and are still shown.

        Args:
            until: the epoch second.
            expiring: only rows whose `expires` lies between these two, by which they are found.

        Raises:
            DatabaseError: the table could not be read.
        """
        first, last = expiring
        return [row for _, row in self._rows(self._due.shown, {"first": first, "last": last, "until": until})]

    def forget(self, until: int) -> int:
        """Delete some of our rows that are over and expire by an epoch second; their watchers have been told.

        Nothing is locked where there is nothing to delete: InnoDB would make all writers wait for the search.

        Returns:
            How many were found.

        Raises:
            DatabaseError: the table could not be written.
        """
        due = {"first": tombstone_expires(until), "last": until}
        found = self._database.run(lambda each: each.execute(self._due.tombstones, due).scalars().all())
        if found:
            values = due | {"ids": found}
            self._database.run(methodcaller("execute", self._due.forget, values), writes=True)
        return len(found)

    def written_since(self, since: int, before_last_s: int) -> list[Key]:
        """Return of what documents a row was written since an epoch second, or in the last seconds of all writing.

        Args:
            since: the epoch second.
            before_last_s: seconds before the last write of all; so a time in which nobody wrote does not count.

        Raises:
            DatabaseError: the table could not be read.
        """

        def work(connection: sa.Connection) -> list[Key]:
            last = connection.execute(self._due.last_write).scalar() or since
            found = connection.execute(self._due.recent, {"since": min(since, last - before_last_s)})
            return [(f"sip:{user}@{domain}", event) for user, domain, event in found]

        return self._database.run(work)

    def newest(self) -> int:
        """Return the greatest position of our rows (`row.Order`), of those that are over and hidden too; 0 for none.

        Raises:
            DatabaseError: the table could not be read.
        """
        ruid = self._database.run(lambda connection: connection.execute(self._due.newest).scalar())
        return position_in(ruid) if ruid else 0

    def _rows(self, page: sa.Select[Any], values: Mapping[str, object]) -> list[tuple[int, Row]]:
        found = self._database.run(lambda connection: connection.execute(page, values).mappings().all())
        names = (*KEY, *CHANGED)
        return [
            (row["id"], Row(**{**{name: row[name] for name in names}, "body": bytes(row["body"])})) for row in found
        ]
