# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads all that the database has of presentities and of who watches them, hidden rows too: for people, not for events.

The connection cannot write. Rows of others, such as those of a phone's own PUBLISH, are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import sqlalchemy as sa

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.presence.change import Who
from kemi_nsq.presence.database import Database
from kemi_nsq.presence.row import RESET, Key, Row
from kemi_nsq.presence.statements import CHANGED, KEY
from kemi_nsq.presence.table import presentity_table

#: Columns of `active_watchers` that tell something (lib/srdb1/schema/pr_active_watchers.xml, version 12).
_TEXTS = ("presentity_uri", "watcher_username", "watcher_domain", "event", "contact", "callid", "reason", "user_agent")
_NUMBERS = ("local_cseq", "expires", "status", "version")
#: Rows of one presentity, and of one answer, that are read at most.
MOST = 5000


class Subscription(NamedTuple):
    """Who watches a presentity, as the presence module stores it: at once, or later (NSQ_SUBSCRIPTIONS_IN_MEMORY).

    Attributes:
        presentity_uri: what is watched.
        event: event package.
        watcher: URI of who watches.
        contact: where NOTIFYs go.
        callid: of the SUBSCRIBE.
        user_agent: what the phone calls itself.
        reason: why the subscription is not active, or ''.
        notifies: how many NOTIFYs it has had, less one (`local_cseq`).
        version: of the next document, where its package counts them.
        expires: epoch second.
        active: whether it is told anything (status 1, presence/subscribe.h).
    """

    presentity_uri: str
    event: str
    watcher: str
    contact: str
    callid: str
    user_agent: str
    reason: str
    notifies: int
    version: int
    expires: int
    active: bool


class Look:
    """Looks into the database of Kamailio's presence module.

    Args:
        url: SQLAlchemy URL.
        table_name: that of the presentity table.
        watchers_table: that of subscriptions.
        timeout_s: seconds that each look may take.
        clock: tells the time.
    """

    def __init__(
        self, url: str, table_name: str, watchers_table: str, *, timeout_s: float = 5.0, clock: Clock = SYSTEM
    ) -> None:
        self._database = Database(url, timeout_s, clock, lambda _line: None, read_only=True)
        self._table = presentity_table(table_name)
        columns = self._table.c
        # SQLite gives back what was put there, which by hand is a text.
        body = sa.cast(columns.body, sa.LargeBinary).label("body")
        self._shown = [*(columns[name] for name in (*KEY, *CHANGED) if name != "body"), body]
        self._watchers = sa.Table(
            watchers_table,
            sa.MetaData(),
            *(sa.Column(name, sa.String) for name in _TEXTS),
            *(sa.Column(name, sa.Integer) for name in _NUMBERS),
        )

    def rows(
        self, *, who: Who | None = None, package: str = "", domain: str = "", hidden: bool = True, most: int = MOST
    ) -> list[Row]:
        """Return rows in the order of their keys: there is an index for that, so the rest of the table is not read.

        Args:
            who: user and domain of the one presentity; None for all.
            package: event package, '' for all.
            domain: of presentities, '' for all.
            hidden: return also those with a negative `expires`, which Kamailio shows nobody.
            most: how many rows at most.

        Raises:
            DatabaseError: the table could not be read.
        """
        columns = self._table.c
        wanted = sa.select(*self._shown).order_by(*(columns[name] for name in KEY))
        equal: Mapping[str, str] = {
            **({"username": who[0], "domain": who[1]} if who else {}),
            **({"domain": domain} if domain else {}),
            **({"event": package} if package else {}),
        }
        wanted = wanted.where(*(columns[name] == value for name, value in equal.items()), columns.event != RESET)
        if not hidden:
            wanted = wanted.where(columns.expires > 0)
        return [_row(each) for each in self._read(wanted.limit(most))]

    def subscriptions(self, keys: Sequence[Key] = (), *, most: int = MOST) -> list[Subscription]:
        """Return who watches.

        Args:
            keys: presentity URIs, each with an event package or '' for all; nothing stands for everything.
            most: how many at most.

        Raises:
            DatabaseError: the table could not be read.
        """
        columns = self._watchers.c
        meant = [
            sa.and_(columns.presentity_uri == uri, *((columns.event == package,) if package else ()))
            for uri, package in keys
        ]
        wanted = sa.select(self._watchers).order_by(columns.presentity_uri, columns.event, columns.callid)
        wanted = wanted.where(sa.or_(*meant)) if meant else wanted
        return [_subscription(each) for each in self._read(wanted.limit(most))]

    def watched(self) -> dict[Key, int]:
        """Return how many active subscriptions each presentity and package has.

        Raises:
            DatabaseError: the table could not be read.
        """
        columns = self._watchers.c
        counted = sa.select(columns.presentity_uri, columns.event, sa.func.count().label("many"))
        counted = counted.where(columns.status == 1).group_by(columns.presentity_uri, columns.event)
        return {(each["presentity_uri"], each["event"]): each["many"] for each in self._read(counted)}

    def close(self) -> None:
        """Close the connection."""
        with suppress(sa.exc.SQLAlchemyError):
            self._database.close()

    def _read(self, statement: sa.Select[Any]) -> list[Mapping[str, Any]]:
        return self._database.run(lambda connection: [dict(row) for row in connection.execute(statement).mappings()])


def _row(found: Mapping[str, Any]) -> Row:
    values = {name: found[name] for name in (*KEY, *CHANGED)}
    return Row(**values | {"body": bytes(found["body"] or b""), "ruid": found["ruid"] or ""})


def _subscription(found: Mapping[str, Any]) -> Subscription:
    return Subscription(
        presentity_uri=found["presentity_uri"],
        event=found["event"],
        watcher=f"sip:{found['watcher_username']}@{found['watcher_domain']}",
        contact=found["contact"],
        callid=found["callid"],
        user_agent=found["user_agent"] or "",
        reason=found["reason"] or "",
        notifies=found["local_cseq"],
        version=found["version"],
        expires=found["expires"],
        active=found["status"] == 1,
    )
