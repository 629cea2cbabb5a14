# SPDX-License-Identifier: GPL-2.0-or-later
"""The statements that look for what is due in the presentity table, and do it: a sweep runs them every few seconds.

All are prepared once. What varies is a parameter.
"""

from __future__ import annotations

from functools import lru_cache

import sqlalchemy as sa

from kemi_nsq.presence.pacing import AT_ONCE
from kemi_nsq.presence.row import HIDING, RESET, SEATED, TOMBSTONE_BODY, WAITING
from kemi_nsq.presence.statements import is_ours, is_over

#: Rows that one statement looks for, or hides, at most.
PAGE = 500
#: Documents that may have been written shortly before a start.
_RECENT = 20_000


class Due:
    """The statements.

    Args:
        table: the presentity table.

    Attributes:
        living: rows of ours that are not over; the newest first, a page of them.
        ending: some of them with `expires` from `first` to `last`.
        shown: rows that leave the document because they have been over since the epoch second `until`; likewise.
        tombstones: ids of rows that are over, with `expires` from `first` to `last`.
        forget: deletes those of the ids `ids`.
        hide: hides rows by their order keys `ruids`, as tombstones with the `expires` that `tombstone` is.
        crowded: presentities of which dialogs wait for room.
        last_write: when a row was written last, as epoch seconds.
        recent: user, domain and package of the documents of which a row was written since the epoch second `since`.
        newest: the greatest of our order keys.
    """

    def __init__(self, table: sa.Table) -> None:
        columns = table.c
        ours, over = is_ours(table), is_over(table)
        expiring = columns.expires.between(sa.bindparam("first"), sa.bindparam("last"))
        rows = sa.select(table).where(ours).order_by(columns.id.desc()).limit(PAGE)
        since = columns.received_time <= sa.bindparam("until")
        self.living = rows.where(sa.not_(over))
        self.ending = self.living.where(expiring).limit(AT_ONCE)
        self.shown = rows.where(expiring, over, columns.event.in_(HIDING), since).limit(AT_ONCE)
        self.tombstones = sa.select(columns.id).where(ours, over, expiring).limit(PAGE)
        which = columns.id.in_(sa.bindparam("ids", expanding=True))
        self.forget = sa.delete(table).where(which, ours, over, expiring)
        told = columns.ruid.in_(sa.bindparam("ruids", expanding=True))
        hidden = {"expires": sa.bindparam("tombstone"), "body": TOMBSTONE_BODY}
        self.hide = sa.update(table).where(told, columns.expires > 0).values(hidden)
        waiting = columns.expires.between(*WAITING), columns.event == SEATED
        self.last_write = sa.select(sa.func.max(columns.received_time)).where(ours)
        document = columns.username, columns.domain, columns.event
        written = ours, columns.event != RESET, columns.received_time >= sa.bindparam("since")
        self.recent = sa.select(*document).where(*written).distinct().limit(_RECENT)
        self.crowded = sa.select(columns.username, columns.domain).where(*waiting).distinct().limit(PAGE)
        # All of ours begin with 0, and Kamailio's own with a letter: so the index on `ruid` finds it at once.
        self.newest = sa.select(columns.ruid).where(columns.ruid < "1", ours).order_by(columns.ruid.desc()).limit(1)


@lru_cache
def due_of(table: sa.Table) -> Due:
    """Return the statements for a table; they are made once."""
    return Due(table)
