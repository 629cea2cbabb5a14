# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends states for which nobody speaks any more: when they expire, and when an operator or their sender resets them.

A state ends like any other change: a document that says so is stored, and its watchers get a NOTIFY. The row then
stays for NSQ_PUA_TOMBSTONE seconds, so that a late event does not revive it, and is deleted in silence. That of a
dialog or contact is hidden (see `row`): the process that wrote it does that; here it is done for those that died
meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError
from kemi_nsq.host import Host, Level
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.history import Cause
from kemi_nsq.presence.lock import PresenceLock
from kemi_nsq.presence.pacing import AT_ONCE
from kemi_nsq.presence.packages import ended
from kemi_nsq.presence.packages.state import document_version
from kemi_nsq.presence.row import GRACE_S, Row, ended_row, reset_row
from kemi_nsq.presence.sipuri import name_addr
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.values import MAX_INT32
from kemi_nsq.presence.watchers import Watchers, dialogs_of
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.settings import Settings

#: How often expiry is looked after; states end up to this much after their time.
SWEEP_INTERVAL_S = 5
#: The process that stored the end of a dialog or contact hides it sooner than this, unless it died before.
LINGER_S = 2
#: By how much the clocks of two nodes may differ.
_CLOCKS_S = 60
#: A process that dies has been trying for so long to tell what was refused, and is there again so soon, mostly.
_UNTOLD_S, _RESTART_S = 30, 60
_PAGES = 100
_SCOPES = "`sender URI`, `user URI`, `realm DOMAIN` or `all`"


class Expiry:
    """Ends states.

    Args:
        settings: how long tombstones stay.
        host: the SIP server.
        table: the presentity table.
        lock: held while a database is written that has one writer at a time.
        writer: stores the ends.
        watchers: are told.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        table: PresentityTable,
        *,
        lock: PresenceLock,
        writer: PresenceWriter,
        watchers: Watchers,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._host = host
        self._table = table
        self._lock = lock
        self._writer = writer
        self._watchers = watchers
        self._clock = clock
        self._swept_until = self._began = 0
        self._doubted = not settings.pua_refresh

    def sweep(self) -> bool:
        """End, hide and show what is due, and delete tombstones whose time is over.

        The presence module would end them later (`GRACE_S`), with an empty NOTIFY.

        Returns:
            Whether so much ended that the rest is to be done by another sweep, soon.

        Raises:
            DatabaseError: the database failed; the next sweep tries again.
        """
        # Every consumer process sweeps, and perhaps those of another node. They need no lock: an end is stored like any
        # other row, so of two that end one state the second finds an order key that is not greater, and tells nobody.
        now = int(self._clock.wall())
        if not self._doubted:
            self._doubt_what_came_last(now)
            self._doubted = True
        until = now + GRACE_S
        rows = self._table.search.expiring(until)
        if (
            rows and self._end(rows, 0, Cause.EXPIRY) and len(rows) >= AT_ONCE
        ):  # an event that is under way counts as later
            return True
        if self._hide_lingering(now - LINGER_S):
            return True
        with self._lock.writing():
            reseated = self._table.settle(now)
        self._watchers.tell(map(dialogs_of, reseated))
        for _ in range(_PAGES):
            with self._lock.writing():
                if not self._table.search.forget(until):
                    break
        return False

    def _doubt_what_came_last(self, now: int) -> None:
        """Have the watchers told of what was written last before this start.

        Who wrote it may have died with NOTIFYs that it held back (NSQ_NOTIFY_INTERVAL), or that were refused, when nsqd
        had its answers already.
        """
        self._began = self._began or now
        held_s = int(self._settings.notify_interval) + _UNTOLD_S
        self._watchers.doubt(self._table.search.written_since(self._began - _RESTART_S - held_s, held_s))

    def _hide_lingering(self, until: int) -> bool:
        """Hide what was over at an epoch second and is still shown; return whether there may be more.

        With NSQ_PUA_REFRESH 0 these are all: the route tells the watchers. Else the process that stored the end died
        before it hid it, perhaps before the NOTIFY. Where nothing strange has happened, only what ended since the last
        sweep is looked for: of other rows there may be very many.
        """
        lifetime_s = self._settings.pua_tombstone + GRACE_S
        expiring = (self._swept_until + lifetime_s, until + lifetime_s)
        if not 0 < self._swept_until <= until:  # the first sweep, or the clock was set back
            expiring = (1, MAX_INT32)
        rows = self._table.search.lingering(until, expiring=expiring)
        if rows and self._settings.pua_refresh:
            self._watchers.tell({(row.uri, row.event) for row in rows})
        self._watchers.hide([row.ruid for row in rows])
        if len(rows) >= AT_ONCE:
            return True
        self._swept_until = until - _CLOCKS_S
        return False

    def reset(self, scope: str, *, position: int, spare_later: bool) -> int:
        """End all states of a scope and return how many there were.

        Args:
            scope: `sender URI` (who published them), `user URI` (a presentity), `realm DOMAIN` or `all`.
            position: where the reset stands among the events; what was published up to it does not revive a state.
            spare_later: whether states that were published after it stay.

        Raises:
            PayloadError: there is no such scope.
            DatabaseError: the database failed; what had ended stays ended.
        """
        columns, count, below_id = _columns(scope), 0, sys.maxsize
        if spare_later and (sender := columns.get("sender")):
            self._remember(sender, position)
        while found := self._table.search.find(below_id, **columns):
            below_id = found[-1][0]
            rows = [row for _, row in found if not spare_later or row.position <= position]
            self._end(rows, position, Cause.RESET)
            count += len(rows)
        return count

    def reset_page(self, scope: str, *, position: int, below_id: int = sys.maxsize) -> tuple[int, int]:
        """End some states of a scope, as `reset` does with all: for who must not keep events waiting for long.

        Args:
            scope: as of `reset`.
            position: likewise.
            below_id: only rows with a smaller id: what the call before has returned.

        Returns:
            How many states it has ended, and the id at which the next call goes on; 0 if there are no more.

        Raises:
            PayloadError, DatabaseError: as `reset`.
        """
        found = self._table.search.find(below_id, **_columns(scope))
        if not found:
            return 0, 0
        return self._end([row for _, row in found], position, Cause.RESET), found[-1][0]

    def now_position(self) -> int:
        """Return a position after all that was published; 0 where producers count in their own way."""
        return 0 if self._settings.pua_order_field else self._clock.wall_ns()

    def _remember(self, sender: str, position: int) -> None:
        """Have stale what a sender has said before its reset and what comes only after it: nsqd keeps no order."""
        now, tombstone_s = int(self._clock.wall()), self._settings.pua_tombstone
        with self._lock.writing():
            self._table.remember_reset(reset_row(sender, position=position, now=now, tombstone_s=tombstone_s))

    def _end(self, rows: Sequence[Row], position: int, cause: Cause) -> int:
        """End states; return how many had not ended, or changed, meanwhile."""
        if not rows:
            return 0
        wall = self._clock.wall()
        now, version = int(wall), document_version(wall)
        ends = []
        for row in rows:
            try:
                body = ended(row.event, row.body, version)
            except ValueError as error:
                self._host.log(Level.ERROR, f"row of {row.uri} ({row.event}, {row.etag}) cannot be ended: {error}")
                body = row.body
            ends.append(ended_row(row, body, now=now, position=position, tombstone_s=self._settings.pua_tombstone))
        # Stale: another process has ended it, or its producer has said something new.
        ended_now = [change for change in self._writer.commit(ends, cause) if change is not Change.STALE]
        for _ in ended_now:
            self._host.count(Counter.PUA_ENDED)
        return len(ended_now)


def _columns(scope: str) -> dict[str, str]:
    kind, _, value = scope.strip().partition(" ")
    if kind == "all" and not value:
        return {}
    if kind == "sender" and value:
        return {"sender": value}
    if kind == "realm" and value:
        return {"domain": value}
    if kind == "user" and value:
        uri = name_addr("user", value).uri
        return {"username": uri.user, "domain": uri.host}
    raise PayloadError(f"{scope[:80]!r} is no scope to reset; {_SCOPES} is wanted")
