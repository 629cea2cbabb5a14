# SPDX-License-Identifier: GPL-2.0-or-later
"""From an event to a row of the presentity table, and on to its watchers: what `nsq_pua_publish` does."""

from __future__ import annotations

import math
from collections import Counter as Multiset
from collections.abc import Sequence

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError, RowRefused
from kemi_nsq.host import Host, Level
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.history import Cause, History, What
from kemi_nsq.presence.lock import PresenceLock
from kemi_nsq.presence.packages import PACKAGES, from_event
from kemi_nsq.presence.packages.state import Wishes, document_version
from kemi_nsq.presence.row import GRACE_S, Order, Row, message_id_in, row_of
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.watchers import Watchers
from kemi_nsq.quiet import Quiet
from kemi_nsq.runtime.page import Stage
from kemi_nsq.settings import Settings

#: Seconds for a trial of a database that failed, and how many trials there are to one that may take NSQ_DB_TIMEOUT.
_TRIAL_S, _PATIENT_TRIAL = 1.0, 5
#: A table that took rows not longer ago takes rows: one that it refuses is to blame itself.
_TAKES_ROWS_S = 5.0
_COUNTERS = {
    Change.STORED: Counter.PUA_STORED,
    Change.UNCHANGED: Counter.PUA_UNCHANGED,
    Change.HIDDEN: Counter.PUA_HIDDEN,
    Change.STALE: Counter.PUA_STALE,
}


class PresenceWriter:
    """Writes the states that events announce.

    Args:
        settings: what to put into documents, and how long to keep them.
        host: the SIP server.
        table: the table that its presence module reads.
        lock: held while a database is written that has one writer at a time.
        watchers: are told.
        history: remembers what was decided.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        table: PresentityTable,
        *,
        lock: PresenceLock,
        watchers: Watchers,
        history: History,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._host = host
        self._table = table
        self._lock = lock
        self._watchers = watchers
        self._history = history
        self._clock = clock
        self._wishes = Wishes(words=settings.pua_states, include_target=settings.pua_include_entity)
        self._trials = 0
        self._stored_at = -_TAKES_ROWS_S
        self._refuses_all = False
        self._quiet = Quiet(host, clock)

    def row(
        self,
        fields: JsonObject,
        order: Order,
        *,
        sent_at: float | None,
        replayed: bool = False,
    ) -> Row | None:
        """Make the row that stores the state that `fields` announce.

        Args:
            fields: the event, as in the C module (`Event-Package`, `From`, `State`, ...).
            order: says which of two events about the same thing is the later one.
            sent_at: epoch seconds at which nsqd took the event; None for one that is not from NSQ.
            replayed: it was a dead letter meanwhile.

        Returns:
            The row; None if the event is older than NSQ_MAX_EVENT_AGE and does not end what it tells of, and for a
            replay whose state has expired since.

        Raises:
            PayloadError: the event does not describe a state.
        """
        state, now = from_event(fields, self._wishes), self._clock.wall()
        row = row_of(
            state,
            state.document(self._wishes, document_version(now)),
            order=order,
            now=int(now),
            tombstone_s=self._settings.pua_tombstone,
            default_expires_s=getattr(self._settings, PACKAGES[state.package].expires),
        )
        if row.is_over or sent_at is None:
            return row
        return None if self._is_too_old(row, now - sent_at) else self._again(row, now, sent_at) if replayed else row

    def _is_too_old(self, row: Row, age_s: float) -> bool:
        """Whether an event is older than NSQ_MAX_EVENT_AGE, which is counted and said."""
        too_old = 0 < self._settings.max_event_age < age_s
        if too_old:
            self._host.count(Counter.PUA_TOO_OLD)
            self._history.dropped(row, What.TOO_OLD)
            text = (
                f"an event {age_s:.0f} s old is dropped (NSQ_MAX_EVENT_AGE): message {message_id_in(row.ruid)}; "
                "do nsqd's clock and ours agree?"
            )
            self._quiet.log(Level.WARNING, Counter.PUA_TOO_OLD, text)
        return too_old

    def _again(self, row: Row, now: float, sent_at: float) -> Row | None:
        """Return the row of a replay of what nsqd took at `sent_at`; None if its state has expired meanwhile.

        What ends something is remembered for NSQ_PUA_TOMBSTONE seconds only. An event that is older may tell of what
        has ended and is forgotten.
        """
        age_s = max(0, math.ceil(now - sent_at))
        if row.expires - GRACE_S - age_s <= now:
            self._host.count(Counter.PUA_TOO_OLD)
            self._history.dropped(row, What.TOO_OLD)
            return None
        return row._replace(expires=row.expires - age_s, unsure=age_s > self._settings.pua_tombstone)

    def commit(self, rows: Sequence[Row], cause: Cause = Cause.EVENT) -> list[Change]:
        """Store rows, then tell the watchers of each presentity that changed, once.

        Args:
            rows: what to store.
            cause: why; with NSQ_PUA_REFRESH 0 the watchers of what an event changed are told by its route.

        Raises:
            RowRefused: the database does not take one of the rows. What was stored all the same is told of.
            DatabaseError: the database failed; the same holds.
        """
        # The transaction is over when the watchers are told: Kamailio makes their documents of what other connections
        # can read (presence/notify.c, ps_db_get_p_notify_body). Whoever dies here leaves rows that nobody was told of:
        # the messages come again (`redelivered`), and the sweep of any consumer finds ends (`expiry`).
        began = self._clock.monotonic()
        try:
            with self._lock.writing():
                saved = self._table.save_all(rows)
            self._host.page.observe(Stage.COMMIT, self._clock.monotonic() - began)
        except RowRefused:
            if len(rows) == 1:  # of several nobody knows which; each will be tried by itself
                self._history.dropped(rows[0], What.REFUSED)
            raise
        except DatabaseError:
            # Perhaps they are stored, and only the answer was lost. Who writes them again finds nothing new then.
            self._watchers.doubt((row.uri, row.event) for row in rows)
            raise
        for change, number in Multiset(filter(None, saved.changes)).items():
            self._host.count(_COUNTERS[change], number)
        self._history.committed(rows, saved.changes, cause)
        self._watchers.tell_saved(rows, saved, by_route=cause is Cause.EVENT)
        if saved.failed:
            raise saved.failed
        self._stored_at = self._clock.monotonic()
        return [change for change in saved.changes if change]

    def trial(self) -> None:
        """Find out whether the database takes writes again.

        Raises:
            DatabaseError: it does not.
        """
        self._trials += 1
        # A database that is frozen must not hold up the rest for long. One that is slow is given all its time now and
        # then, or it would never be found to work.
        limit_s = None if self._trials % _PATIENT_TRIAL == 0 else _TRIAL_S
        try:
            with self._lock.writing():
                self._table.try_write(limit_s)
        except RowRefused as error:
            # Where it does not like the row of the trial, it works, unless it likes no other either.
            if self._refuses_all:
                raise DatabaseError(str(error)) from error
        self._refuses_all = False

    def blame_table(self) -> None:
        """Look who is to blame that a row was refused.

        Raises:
            DatabaseError: the table, which has taken no row for a while, and that of the trial neither.
        """
        if self._clock.monotonic() - self._stored_at < _TAKES_ROWS_S:
            return
        self._refuses_all = True
        self.trial()
