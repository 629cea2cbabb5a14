# SPDX-License-Identifier: GPL-2.0-or-later
"""What watchers are told, and when: a NOTIFY for each presentity that changed, and what is over is hidden after it."""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Iterable, Sequence
from contextlib import suppress

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError
from kemi_nsq.host import Host, Level
from kemi_nsq.presence.change import Change, Who
from kemi_nsq.presence.history import History
from kemi_nsq.presence.lock import PresenceLock
from kemi_nsq.presence.pacing import AFTER_S, AT_ONCE, Hiding, Pacer, Untold
from kemi_nsq.presence.row import SEATED, Key, Row, leaves, tombstone_until
from kemi_nsq.presence.table import PresentityTable, Saved
from kemi_nsq.quiet import Quiet
from kemi_nsq.runtime.page import Stage
from kemi_nsq.settings import Settings

#: From here on, asking the database who is watched costs less than the refreshes that it spares.
_ASK_FOR_WATCHERS = 2
#: So many NOTIFYs of one package that are refused speak for the rest of them, until the next try.
REFUSALS = 3
#: A document above this does not fit a UDP datagram (65,507 bytes) with the headers of its NOTIFY.
UDP_LIMIT = 64_000


class Watchers:
    """The watchers of all presentities, as far as this process tells them.

    Args:
        settings: how often they may be told, and whether a route does it.
        host: the SIP server, which sends the NOTIFYs.
        table: says who watches; what is over is hidden there.
        lock: held for each NOTIFY.
        history: remembers them.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        table: PresentityTable,
        *,
        lock: PresenceLock,
        history: History,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._host = host
        self._table = table
        self._lock = lock
        self._history = history
        self._clock = clock
        self._pacer = Pacer(0)
        self._hiding = Hiding()
        self._untold = Untold(0)
        self._ticks = False
        self._quiet = Quiet(host, clock)

    def begin_ticking(self) -> None:
        """Say that this process calls `tick` in time, and knows itself when to leave the database alone.

        NOTIFYs are held back for NSQ_NOTIFY_INTERVAL from now on.
        """
        self._table.keep_trying()
        self._history.begin()
        self._pacer = Pacer(self._settings.notify_interval)
        self._untold = Untold(AFTER_S)
        self._ticks = True

    def next_due(self) -> float | None:
        """Return the monotonic second at which `tick` has something to do."""
        queues = self._pacer, self._untold, self._hiding
        return min((due for queue in queues if (due := queue.next_due()) is not None), default=None)

    def tick(self) -> None:
        """Tell watchers whose NOTIFY was held back or did not leave, and hide what is over and was told.

        Raises:
            DatabaseError: the database failed; the sweep will hide them.
        """
        now = self._clock.monotonic()
        self._refresh(self._pacer.due(now))
        self._tell_again()
        due = self._hiding.next_due()
        if due is not None and now >= due:
            self._hide_told()

    def _finish(self) -> None:
        """Do at once what `tick` does a moment later."""
        self._tell_again()
        if self._hiding.next_due() is not None:
            self._hide_told()

    def tell_saved(self, rows: Sequence[Row], saved: Saved, *, by_route: bool) -> None:
        """Tell the watchers of each presentity that changed, once.

        An event that was delivered before is told of in any case: its first delivery may have ended after the commit.

        Args:
            rows: what was to be stored.
            saved: what became of it.
            by_route: an event route stored it, which tells the watchers itself with NSQ_PUA_REFRESH 0.
        """
        told = [(row, change) for row, change in zip(rows, saved.changes, strict=True) if change]
        large = self._note_large([row for row, _ in told], saved)
        if by_route and not self._settings.pua_refresh:
            return  # the route tells the watchers, and the sweep hides
        changed = [row for row, change in told if change is Change.STORED or row.redelivered]
        later = self._refresh_changed(changed, saved.reseated, by_route=by_route)
        over = [
            row.ruid
            for row, change in told
            if leaves(row) and (change in (Change.STORED, Change.UNCHANGED) or row.redelivered)
            if (row.uri, row.event) not in later
        ]
        # Another process that stored that it is over, before this said the same, may have died before the NOTIFY.
        repeated = [row for row, _ in told if row.ruid in saved.repeated and not row.redelivered]
        self.doubt((row.uri, row.event) for row in repeated if not self._hiding.has(row.ruid))
        self._hiding.add(over, large, self._clock.monotonic())
        if not self._ticks:
            with suppress(DatabaseError):  # they are stored and told; the sweep of a consumer will hide them
                self._finish()

    def tell(self, keys: Iterable[Key]) -> None:
        """Send a NOTIFY to those who watch some presentities."""
        self._refresh([*keys])

    def doubt(self, keys: Iterable[Key]) -> None:
        """Send them one in a moment: nobody knows whether they have been told what is stored."""
        if not self._untold.add(keys, self._clock.monotonic()):
            text = "too many presentities wait to be told again; the lamps of others are right after their next event"
            self._quiet.log(Level.ERROR, Counter.REFRESH_FAILED, text)

    def hide(self, ruids: Sequence[str]) -> None:
        """Take what is over and was told out of its document.

        Raises:
            DatabaseError: the database failed.
        """
        if not ruids:
            return
        until = tombstone_until(int(self._clock.wall()), self._settings.pua_tombstone)
        with self._lock.writing():
            self._table.hide(ruids, until=until)

    def _hide_told(self) -> None:
        ruids, large = self._hiding.take()
        self.hide(ruids)
        if ruids:  # what was too large to be told is smaller now
            self._refresh(large)

    def _tell_again(self) -> None:
        tried = self._untold.take(self._clock.monotonic())
        if tried and len(self._refresh(tried)) < len(tried):
            self._untold.succeeded(self._clock.monotonic())

    def _note_large(self, rows: Sequence[Row], saved: Saved) -> list[Key]:
        """Say which documents are about to be too large for UDP, and return them: such a NOTIFY reaches nobody."""
        sizes = {dialogs_of(who): size for who, size in saved.sizes.items()}
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

    def _refresh_changed(self, rows: Sequence[Row], reseated: Iterable[Who], *, by_route: bool) -> set[Key]:
        """Tell the watchers of what changed, of a batch all now, else some; return those that are told later.

        What ended is told then by the sweep, which hides it after that. A process without ticks tells all now.
        """
        urgent = dict.fromkeys(map(dialogs_of, reseated), False)
        for row in rows:
            key = (row.uri, row.event)
            urgent[key] = urgent.get(key, False) or row.is_over
        now = self._clock.monotonic()
        admitted = [key for key in urgent if self._pacer.admit(key, now, urgent=urgent[key])]
        most = len(admitted) if by_route or not self._ticks else AT_ONCE
        self._refresh(admitted[:most])
        later = set(admitted[most:])
        self.doubt(later - {(row.uri, row.event) for row in rows if leaves(row)})
        return later

    def _refresh(self, keys: Sequence[Key]) -> list[Key]:
        """Send NOTIFYs; return those that did not leave, and will be tried again."""
        refused: list[Key] = []
        untried: list[Key] = []
        refusals: Multiset[str] = Multiset()
        for key in self._watched(keys):
            event = key[1]
            if refusals[event] >= REFUSALS:
                untried.append(key)
            elif self._send(*key):
                refusals[event] = 0
            else:
                refusals[event] += 1
                refused.append(key)
        left = untried + refused
        self.doubt(left)
        return left

    def _send(self, uri: str, event: str) -> bool:
        # In this process, and at once (notifier_processes 0): the NOTIFY has left when the call returns.
        began = self._clock.monotonic()
        with self._lock.held("a NOTIFY"):
            accepted = self._host.refresh_watchers(uri, event)
        self._host.page.observe(Stage.NOTIFY, self._clock.monotonic() - began)
        self._history.told((uri, event), accepted)
        if accepted:
            self._untold.told((uri, event))
        else:
            self._host.count(Counter.REFRESH_FAILED)
            self._quiet.log(
                Level.ERROR,
                Counter.REFRESH_FAILED,
                f"the presence module refused to refresh {uri} ({event}); the state is stored, and it is tried again. "
                "Are the module presence, its db_url and the module of the event package loaded and set?",
            )
        return accepted

    def _watched(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Leave out presentities that nobody watches, where one query tells that for several of them."""
        if len(keys) < _ASK_FOR_WATCHERS:
            return keys
        try:
            watched = self._table.watched(keys)
        except DatabaseError:  # the states are stored; telling too many is right as well
            return keys
        self._history.unwatched([key for key in keys if key not in watched])
        return [key for key in keys if key in watched]


def dialogs_of(who: Who) -> Key:
    """Return what the watchers of somebody's dialogs subscribe to."""
    user, domain = who
    return f"sip:{user}@{domain}", SEATED
