# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of Kamailio's presence module: what watchers are shown of the table, and when.

With `startup_mode` 1 a NOTIFY is made of the rows with `expires > now` (presence/notify.c, ps_db_get_p_notify_body),
and the cleaner deletes those with `0 < expires < now` (presence/publish.c, ps_presentity_db_timer_clean). A mailbox's
watcher is sent the row that changed last.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.histories import shown_in
from tests.support.tables import subscription

DIALOG, MAILBOX = "dialog", "message-summary"
#: Its parameter `clean_period`.
CLEAN_S = 100.0

#: What a lamp shows: the state of each call, or `{"box": "2/0"}`.
Document = Mapping[str, str]


@dataclass(slots=True)
class Watcher:
    """A phone that is subscribed.

    Attributes:
        uri: the presentity.
        event: the event package.
        shown: by the last NOTIFY.
    """

    uri: str
    event: str
    shown: Document = field(default_factory=dict)


class PresenceModule:
    """What a Kamailio does with its presentity table.

    Args:
        path: the database.
        wall: tells the epoch second.

    Attributes:
        watchers: those who are subscribed.
        largest: the most calls that a document ever had, and the most that were over.
    """

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._wall = wall
        self.watchers: list[Watcher] = []
        self.largest = (0, 0)

    def close(self) -> None:
        """Close its connection."""
        self._database.close()

    def subscribe(self, uri: str, event: str) -> None:
        """Take a subscription, which is told what there is."""
        watcher = Watcher(uri, event)
        self.watchers.append(watcher)
        self._database.execute(*subscription(uri, event, number=len(self.watchers)))
        self._tell(watcher, self.document(uri, event))

    def refresh(self, uri: str, event: str) -> None:
        """Send a NOTIFY to all who watch a presentity."""
        watching = [watcher for watcher in self.watchers if (watcher.uri, watcher.event) == (uri, event)]
        document = self.document(uri, event)
        for watcher in watching:
            self._tell(watcher, document)

    def clean(self) -> None:
        """Delete what has expired, and tell."""
        due = "0 < expires AND expires < ?"
        now = (int(self._wall()),)
        found = self._database.execute(f"SELECT DISTINCT username, domain, event FROM presentity WHERE {due}", now)
        gone = found.fetchall()
        self._database.execute(f"DELETE FROM presentity WHERE {due}", now)
        for user, domain, event in gone:
            self.refresh(f"sip:{user}@{domain}", event)

    def document(self, uri: str, event: str) -> Document:
        """Return what a watcher would be shown now."""
        user, domain = uri.removeprefix("sip:").split("@")
        rows = self._database.execute(
            "SELECT body FROM presentity WHERE username = ? AND domain = ? AND event = ? AND expires > ? "
            "ORDER BY received_time, id",
            (user, domain, event, int(self._wall())),
        )
        shown = [shown_in(body) for (body,) in rows]
        if event == MAILBOX:
            return {"box": shown[-1][0]} if shown else {}
        return {call: state for call, state in shown}

    def _tell(self, watcher: Watcher, document: Document) -> None:
        watcher.shown = document
        if watcher.event == DIALOG:
            over = sum(state == "terminated" for state in document.values())
            self.largest = max(self.largest[0], len(document)), max(self.largest[1], over)
