# SPDX-License-Identifier: GPL-2.0-or-later
"""From an event to a presentity row and a NOTIFY: what `nsq_pua_publish` does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from kemi_nsq import document, presence, presentity
from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError
from kemi_nsq.event import JsonObject
from kemi_nsq.host import Host, Level
from kemi_nsq.settings import Settings
from kemi_nsq.store import Change, PresentityStore

_COUNTERS = {
    Change.STORED: Counter.PUA_STORED,
    Change.UNCHANGED: Counter.PUA_UNCHANGED,
    Change.STALE: Counter.PUA_STALE,
}


class PresencePublisher:
    """Publishes the presence that events announce.

    Args:
        settings: what to put into documents, and how long to keep them.
        host: the SIP server, which has the watchers.
        store: the table that its presence module reads; None where NSQ_DB_URL is not set.
    """

    def __init__(self, settings: Settings, host: Host, store: PresentityStore | None) -> None:
        self._settings = settings
        self._host = host
        self._store = store

    def row(self, fields: JsonObject, order: presentity.Order) -> presentity.Row:
        """Make the row that stores the state that `fields` announce.

        Args:
            fields: the event, as in the C module (`Event-Package`, `From`, `State`, ...).
            order: says which of two events about the same thing is the later one.

        Raises:
            PayloadError: the event does not describe a state, or there is no database to write it to.
        """
        if self._store is None:
            raise PayloadError("NSQ_DB_URL is not set, so there is no presentity table to write to")
        state = presence.from_event(fields)
        rendered = document.render(state, include_target=self._settings.pua_include_entity)
        return presentity.row(
            state,
            rendered.body,
            order=order,
            now=int(time.time()),
            tombstone_s=self._settings.pua_tombstone,
            default_expires_s=self._settings.pua_expires,
        )

    def commit(self, rows: Sequence[presentity.Row]) -> list[Change]:
        """Store rows in one transaction, then tell the watchers of each presentity that changed, once.

        Raises:
            StoreError: the database failed; nothing was stored.
        """
        if self._store is None:
            return []
        with self._locked():
            changes = self._store.save_all(rows)
        for change in changes:
            self._host.count(_COUNTERS[change])
        if self._settings.pua_refresh:
            self._refresh_all(
                {
                    (row.uri, row.event): None
                    for row, change in zip(rows, changes, strict=True)
                    if change is Change.STORED
                }
            )
        return changes

    def _refresh_all(self, changed: Iterable[tuple[str, str]]) -> None:
        for uri, event in changed:
            with self._locked():
                accepted = self._host.refresh_watchers(uri, event)
            if not accepted:
                self._host.count(Counter.REFRESH_FAILED)
                self._host.log(
                    Level.ERROR,
                    f"the presence module refused to refresh {uri} ({event}); the state is stored. "
                    "Are presence's db_url and the module of the event package set?",
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep SIP workers from handling a SUBSCRIBE meanwhile.

        db_sqlite does not wait for another writer, and a NOTIFY for a subscription that a worker is refreshing would
        use its CSeq twice.
        """
        name = self._settings.pua_lock
        if name:
            self._host.lock(name)
        try:
            yield
        finally:
            if name:
                self._host.unlock(name)
