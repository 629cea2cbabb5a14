# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes what the routes of messages have published, in one transaction; and finds out whose fault it is if that fails.

A row that the database refuses is its message's own fault. Everything else is the world's, and costs no message
anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.message import Current, Fault, Handled
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError, RowRefused
from kemi_nsq.host import Host, Level
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.quiet import Quiet
from kemi_nsq.runtime.page import Fact
from kemi_nsq.settings import Settings

#: When the database seemed to work again, so many commits that fail in a row say that it does not.
_FAILED_COMMITS = 2


class Committing:
    """Commits for the handling.

    Args:
        settings: how long the database may take.
        host: the SIP server.
        writer: stores rows and tells watchers; None where there is no presentity table, and so no row.
        gate: learns when the database fails.
        current: learns which message is written, where it is only one.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        writer: PresenceWriter | None,
        gate: Gate,
        *,
        current: Current,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._host = host
        self._writer = writer
        self._gate = gate
        self._current = current
        self._clock = clock
        self._quiet = Quiet(host, clock)

    def commit(self, wrote: Sequence[Handled]) -> None:
        """Write what some messages have published; if that fails, note in each of them what that means for it."""
        if not wrote or self._writer is None:
            return
        # One write, however many: who looks from outside sees which messages a death would be due to.
        self._host.page.show(Fact.HANDLING, " ".join(one.delivery.message_id for one in wrote))
        self._host.page.begin("the database")
        self._host.ending.in_order()
        self._current.subject = wrote[0] if len(wrote) == 1 else None
        self._commit(self._writer, wrote)

    def bug(self, one: Handled, error: Exception) -> None:
        """Let a message come again that a bug of ours has met."""
        text = f"message {one.delivery.message_id}: {type(error).__name__}: {error}; please report this"
        self._quiet.log(Level.CRITICAL, Counter.BUG, text, error=error)
        self._host.count(Counter.BUG)
        one.again = Fault.OWN
        self._gate.route_failed(one.delivery.subscription, one.delivery.message_id)

    def database_failed(self, met: Sequence[Handled], cause: str) -> None:
        """Take note of an outage: nothing of some messages was written, by no fault of theirs."""
        for one in met:
            one.again, one.doubtful = Fault.WORLD, self._gate.doubtful(Kind.DATABASE)
        self._gate.failed(Kind.DATABASE, [one.delivery.subscription for one in met], cause)

    def _commit(self, writer: PresenceWriter, wrote: Sequence[Handled]) -> None:
        try:
            writer.commit([row for one in wrote for row in one.rows])
        except DatabaseError as error:
            # Where a trial has just succeeded it may be something that only one of them meets.
            if len(wrote) > 1 and self._gate.doubtful(Kind.DATABASE):
                self._commit_apart(writer, wrote)
            else:
                self._host.count(Counter.PUA_DATABASE_ERROR)
                self.database_failed(wrote, str(error))
        except Exception as error:
            if len(wrote) > 1:  # one of them spoils it for all: each by itself
                for one in wrote:
                    self.commit([one])
            elif isinstance(error, RowRefused):
                self._blame(writer, wrote[0], error)
            else:
                self.bug(wrote[0], error)

    def _commit_apart(self, writer: PresenceWriter, wrote: Sequence[Handled]) -> None:
        """Write what each message has by itself. If the database takes none of it, it is an outage all the same."""
        failed: list[Handled] = []
        last = ""
        until = self._clock.monotonic() + self._settings.db_timeout
        for tried, one in enumerate(wrote):
            if tried == len(failed) == _FAILED_COMMITS or (failed and self._clock.monotonic() > until):
                failed.extend(wrote[tried:])
                break
            self._current.subject = one
            try:
                writer.commit(one.rows)
            except DatabaseError as error:
                failed.append(one)
                last = str(error)
            except RowRefused as error:
                self._blame(writer, one, error)
            except Exception as error:
                self.bug(one, error)
        self._current.subject = None
        if not failed:
            return
        self._host.count(Counter.PUA_DATABASE_ERROR)
        if len(failed) == len(wrote):
            self.database_failed(failed, last)
        else:
            self._database_refuses(failed, last)

    def _database_refuses(self, wrote: Sequence[Handled], cause: str) -> None:
        """Let messages come again that the database did not take while it took others."""
        text = (
            f"the database took other messages, but not {len(wrote)}, such as {wrote[0].delivery.message_id}: {cause}"
        )
        self._quiet.log(Level.ERROR, Counter.PUA_DATABASE_ERROR, text)
        for one in wrote:
            one.again, one.doubtful = Fault.WORLD, True

    def _blame(self, writer: PresenceWriter, one: Handled, refused: RowRefused) -> None:
        """Drop a message whose row is refused, unless the table takes none at all: a column was changed, ids ended."""
        try:
            writer.blame_table()
        except DatabaseError as error:
            self._host.count(Counter.PUA_DATABASE_ERROR)
            self.database_failed([one], str(error))
            return
        one.refused = str(refused)
        self._host.count(Counter.PUA_INVALID)
        self._quiet.log(Level.ERROR, Counter.PUA_INVALID, f"message {one.delivery.message_id} dropped: {refused}")
