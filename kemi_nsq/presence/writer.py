# SPDX-License-Identifier: GPL-2.0-or-later
"""From an event to a presentity row and a NOTIFY: what `nsq_pua_publish` does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError, RowRefused, StoreError
from kemi_nsq.host import Host, Level
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.presence import document, hidden
from kemi_nsq.presence import reading as presence
from kemi_nsq.presence import row as presentity
from kemi_nsq.presence.change import Change, Who
from kemi_nsq.presence.pacing import Hiding, Key, Pacer
from kemi_nsq.presence.publication import MailboxState
from kemi_nsq.presence.table import PresentityTable, Saved
from kemi_nsq.quiet import Quiet
from kemi_nsq.settings import Settings

#: From here on, asking the database who is watched costs less than the refreshes that it spares.
_ASK_FOR_WATCHERS = 2
#: Seconds for a probe of a database that failed, and how many probes there are to one that may take NSQ_DB_TIMEOUT.
_PROBE_S, _PATIENT_PROBE = 1.0, 5
#: A table that took rows not longer ago takes rows: one that it refuses is to blame itself.
_TAKES_ROWS_S = 5.0
#: A document above this does not fit a UDP datagram (65,507 bytes) with the headers of its NOTIFY.
UDP_LIMIT = 64_000
_COUNTERS = {
    Change.STORED: Counter.PUA_STORED,
    Change.UNCHANGED: Counter.PUA_UNCHANGED,
    Change.HIDDEN: Counter.PUA_HIDDEN,
    Change.STALE: Counter.PUA_STALE,
}


class PresenceWriter:
    """Publishes the presence that events announce.

    Args:
        settings: what to put into documents, and how long to keep them.
        host: the SIP server, which has the watchers.
        store: the table that its presence module reads; None where NSQ_DB_URL is not set.
    """

    def __init__(self, settings: Settings, host: Host, store: PresentityTable | None) -> None:
        self._settings = settings
        self._host = host
        self._store = store
        self._states = {**presence.PRESENCE_STATES, **settings.pua_states}
        self._pacer = Pacer(0)
        self._hiding = Hiding()
        self._probes = 0
        self._stored_at = -_TAKES_ROWS_S
        self._refuses_all = False
        self._ticks = False
        self._quiet = Quiet(host)

    def row(
        self, fields: JsonObject, order: presentity.Order, *, sent_at: float | None, redelivered: bool = False
    ) -> presentity.Row | None:
        """Make the row that stores the state that `fields` announce.

        Args:
            fields: the event, as in the C module (`Event-Package`, `From`, `State`, ...).
            order: says which of two events about the same thing is the later one.
            sent_at: epoch seconds at which nsqd took the event; None for one that is not from NSQ.
            redelivered: nsqd has delivered it before.

        Returns:
            The row; None if the event is older than NSQ_MAX_EVENT_AGE and does not end a dialog.

        Raises:
            PayloadError: the event does not describe a state, or there is no database to write it to.
        """
        if self._store is None:
            raise PayloadError("NSQ_DB_URL is not set, so there is no presentity table to write to")
        state, now = presence.from_event(fields, self._states), time.time()
        row = presentity.row(
            state,
            document.render(state, include_target=self._settings.pua_include_entity).body,
            order=order,
            now=int(now),
            tombstone_s=self._settings.pua_tombstone,
            default_expires_s=self._default_expires_s(state.event),
        )
        oldest = self._settings.max_event_age
        if oldest and sent_at is not None and now - sent_at > oldest and not row.terminal:
            self._host.count(Counter.PUA_TOO_OLD)
            text = f"an event {now - sent_at:.0f} s old is dropped (NSQ_MAX_EVENT_AGE); do nsqd's clock and ours agree?"
            self._quiet.log(Level.WARNING, Counter.PUA_TOO_OLD, text)
            return None
        return row._replace(redelivered=True) if redelivered else row

    def _default_expires_s(self, event: str) -> int:
        return self._settings.pua_mailbox_expires if event == MailboxState.event else self._settings.pua_expires

    def commit(self, rows: Sequence[presentity.Row], *, by_route: bool = True) -> list[Change]:
        """Store rows, then tell the watchers of each presentity that changed, once.

        An event that was delivered before is told of in any case: its first delivery may have ended after the commit.

        Args:
            rows: what to store.
            by_route: an event route does this, which tells the watchers itself with NSQ_PUA_REFRESH 0.

        Raises:
            RowRefused: the database does not take one of the rows. What was stored all the same is told of.
            StoreError: the database failed; the same holds.
        """
        if self._store is None:
            return []
        with self.writing():
            saved = self._store.save_all(rows)
        self._tell(rows, saved, by_route=by_route)
        if saved.failed:
            raise saved.failed
        self._stored_at = time.monotonic()
        return [change for change in saved.changes if change]

    def _tell(self, rows: Sequence[presentity.Row], saved: Saved, *, by_route: bool) -> None:
        told = [(row, change) for row, change in zip(rows, saved.changes, strict=True) if change]
        for _, change in told:
            self._host.count(_COUNTERS[change])
        large = self._note_large([row for row, _ in told], saved)
        if by_route and not self._settings.pua_refresh:
            return  # the route tells the watchers, and the sweep hides
        refused = self._refresh_changed(
            [row for row, change in told if change is Change.STORED or row.redelivered], saved.reseated
        )
        over = [
            row.ruid
            for row, change in told
            if hidden.is_over(row) and (change in (Change.STORED, Change.UNCHANGED) or row.redelivered)
        ]
        self._hiding.add(over, refused, large, time.monotonic())
        if not self._ticks and self._hiding.next_due() is not None:
            with suppress(StoreError):  # they are stored and told; the sweep will hide them
                self._hide()

    def _note_large(self, rows: Sequence[presentity.Row], saved: Saved) -> list[Key]:
        """Say which documents are about to be too large for UDP, and return them: such a NOTIFY reaches nobody."""
        sizes = {_dialogs_of(who): size for who, size in saved.sizes.items()}
        sizes |= {(row.uri, row.event): len(row.body) for row in rows if len(row.body) > UDP_LIMIT}
        large = [key for key, size in sizes.items() if size > UDP_LIMIT]
        for uri, event in large:
            self._host.count(Counter.DOCUMENT_TOO_LARGE)
            text = (
                f"the {event} document of {uri} has some {sizes[uri, event]} bytes, too many for a NOTIFY over UDP: "
                "lower NSQ_PUA_MAX_DIALOGS, set NSQ_PUA_INCLUDE_ENTITY 0, or let its watchers use TCP"
            )
            self._quiet.log(Level.ERROR, Counter.DOCUMENT_TOO_LARGE, text)
        return large

    def probe(self) -> None:
        """Find out whether the database takes writes again.

        Raises:
            StoreError: it does not.
        """
        # Where it does not like the row of the probe, it works, unless it likes no other either.
        if self._store is not None:
            self._probes += 1
            # A database that is frozen must not hold up the rest for long. One that is slow is given all its time now
            # and then, or it would never be found to work.
            limit_s = None if self._probes % _PATIENT_PROBE == 0 else _PROBE_S
            try:
                with self.writing():
                    self._store.probe(limit_s)
            except RowRefused as error:
                if self._refuses_all:
                    raise StoreError(str(error)) from error
            self._refuses_all = False

    def blame_table(self) -> None:
        """Look who is to blame that a row was refused.

        Raises:
            StoreError: the table, which has taken no row for a while, and that of the probe neither.
        """
        if time.monotonic() - self._stored_at < _TAKES_ROWS_S:
            return
        self._refuses_all = True
        self.probe()

    def begin_ticking(self) -> None:
        """Say that this process calls `tick` in time, and knows itself when to leave the database alone.

        NOTIFYs are held back for NSQ_NOTIFY_INTERVAL from now on.
        """
        if self._store is not None:
            self._store.keep_trying()
        self._pacer = Pacer(self._settings.notify_interval)
        self._ticks = True

    def tick(self) -> None:
        """Tell watchers whose NOTIFY was held back and may leave now, and hide dialogs that are over and were told.

        Raises:
            StoreError: the database failed; the sweep will hide them.
        """
        now = time.monotonic()
        self._refresh(self._pacer.due(now))
        due = self._hiding.next_due()
        if due is not None and now >= due:
            self._hide()

    def next_due(self) -> float | None:
        """Return the monotonic second at which `tick` has something to do."""
        dues = [due for due in (self._pacer.next_due(), self._hiding.next_due()) if due is not None]
        return min(dues, default=None)

    def _hide(self) -> None:
        ruids, refused, large = self._hiding.take()
        refused_again = self._refresh(refused)
        self.hide(ruids)
        if ruids:  # what was too large to be told, or was refused, is smaller now
            self._refresh(list(dict.fromkeys([*large, *refused_again])))

    def hide(self, ruids: Sequence[str]) -> None:
        """Take dialogs that are over and were told out of their documents.

        Raises:
            StoreError: the database failed.
        """
        if self._store is None or not ruids:
            return
        until = int(time.time()) + self._settings.pua_tombstone + presentity.GRACE_S
        with self.writing():
            self._store.hide(ruids, until=until)

    def tell(self, presentities: Iterable[Who]) -> None:
        """Send a NOTIFY to those who watch the dialogs of some presentities."""
        self._refresh([*map(_dialogs_of, presentities)])

    def writing(self) -> AbstractContextManager[None]:
        """Hold the lock where the database has one writer at a time, for which Kamailio's driver does not wait."""
        return self.locked() if self._store is not None and self._store.one_writer else nullcontext()

    def _refresh_changed(self, rows: Sequence[presentity.Row], reseated: Iterable[Who]) -> list[Key]:
        urgent = dict.fromkeys(map(_dialogs_of, reseated), False)
        for row in rows:
            key = (row.uri, row.event)
            urgent[key] = urgent.get(key, False) or row.terminal
        now = time.monotonic()
        return self._refresh([key for key in urgent if self._pacer.admit(key, now, urgent=urgent[key])])

    def _refresh(self, keys: Sequence[Key]) -> list[Key]:
        """Send NOTIFYs, and return those that the presence module refused."""
        refused = []
        for uri, event in self._watched(keys):
            with self.locked():
                accepted = self._host.refresh_watchers(uri, event)
            if not accepted:
                refused.append((uri, event))
                self._host.count(Counter.REFRESH_FAILED)
                self._quiet.log(
                    Level.ERROR,
                    Counter.REFRESH_FAILED,
                    f"the presence module refused to refresh {uri} ({event}); the state is stored. "
                    "Are the module presence, its db_url and the module of the event package loaded and set?",
                )
        return refused

    def _watched(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Leave out presentities that nobody watches, where one query tells that for several of them."""
        if self._store is None or len(keys) < _ASK_FOR_WATCHERS:
            return keys
        try:
            watched = self._store.watched(keys)
        except StoreError:  # the states are stored; telling too many is right as well
            return keys
        return [key for key in keys if key in watched]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep SIP workers from handling a SUBSCRIBE meanwhile.

        db_sqlite does not wait for another writer, and a NOTIFY for a subscription that a worker is refreshing would
        use its CSeq twice.
        """
        name = self._settings.pua_lock
        held = bool(name) and self._host.lock(name)
        if name and not held:
            self._host.count(Counter.LOCK_FAILED)
            self._quiet.log(
                Level.ERROR,
                "lock",
                f"the lock {name!r} was refused, so SUBSCRIBEs may fail and a NOTIFY may repeat a CSeq. "
                "Is cfgutils' lock_set_size set?",
            )
        try:
            yield
        finally:
            if held:
                self._host.unlock(name)


def _dialogs_of(who: Who) -> Key:
    user, domain = who
    return f"sip:{user}@{domain}", hidden.PACKAGE
