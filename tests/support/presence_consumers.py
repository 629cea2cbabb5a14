# SPDX-License-Identifier: GPL-2.0-or-later
"""Consumers that handle presence events on a database, without Kamailio, and what their watchers would see.

Each has a handling, a store and a fake SIP server of its own, as each consumer process has. Its one route, for all
events, calls `nsq_pua_publish`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from kemi_nsq.consumer.committing import Committing
from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.consumer.handling import EventHandling
from kemi_nsq.consumer.message import Current, Delivery
from kemi_nsq.consumer.routes import Outcome, Router
from kemi_nsq.consumer.tally import Tally
from kemi_nsq.consumer.verdict import Verdicts
from kemi_nsq.errors import DatabaseError, NsqError
from kemi_nsq.event import Event
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.plugin.pua_functions import PuaFunctions
from kemi_nsq.presence.lock import PresenceLock
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.row import Row
from kemi_nsq.presence.table import PresentityTable, Saved
from kemi_nsq.testing import FakeHost
from tests.support.deliveries import again
from tests.support.doubles import FakeAnswers
from tests.support.gates import TestedGate
from tests.support.settings import settings
from tests.support.tables import Database
from tests.support.wired import wired

#: A presentity's URI and an event package.
Key = tuple[str, str]
#: Etag to order key and document.
Seen = dict[str, tuple[str, bytes]]


class Crash(BaseException):
    """Stands for the end of a consumer process."""


@dataclass
class Views:
    """What the NOTIFYs of all consumers have shown, each the table's rows of a presentity at that moment.

    Attributes:
        database: has the table.
        limit: NSQ_PUA_MAX_DIALOGS; above it a call may leave without being told.
        latest: what was shown last.
        went_back: a line for each time that a NOTIFY showed an older state than one before.
    """

    database: Database
    limit: int = 0
    latest: dict[Key, Seen] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, uri: str, event: str) -> None:
        """Remember what a NOTIFY that is made now shows."""
        with self._lock:
            shown = self.stored(uri, event)
            for etag, (ruid, body) in self.latest.get((uri, event), {}).items():
                # A call that is over was told once, and leaves.
                if etag not in shown and (self.limit or b"<state>terminated</state>" in body):
                    continue
                if etag not in shown or shown[etag][0] < ruid:
                    self.went_back.append(f"{uri} {event} {etag}: {shown.get(etag)} after {ruid}")
            self.latest[uri, event] = shown

    def stored(self, uri: str, event: str) -> Seen:
        """Return what Kamailio shows of a presentity."""
        username, _, domain = uri.removeprefix("sip:").partition("@")
        condition = "username = :username AND domain = :domain AND event = :event AND expires > 0"
        rows = self.database.rows(condition, username=username, domain=domain, event=event)
        return {str(row["etag"]): (str(row["ruid"]), _bytes(row["body"])) for row in rows}


class ViewingHost(FakeHost):
    """A SIP server whose NOTIFYs are remembered, and which may crash before one leaves."""

    def __init__(self, views: Views, crashes: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._views = views
        self._crashes = crashes

    def refresh_watchers(self, presentity_uri: str, event: str) -> bool:
        """Remember what watchers are shown, unless this is the time to crash."""
        if self._crashes():
            raise Crash
        self._views.look(presentity_uri, event)
        return super().refresh_watchers(presentity_uri, event)


class FlakyStore(PresentityTable):
    """A store that fails when it is told to: before anything is stored, or when all is, but nobody says so."""

    def __init__(self, database: Database, faults: Callable[[], str] = lambda: "", max_dialogs: int = 0) -> None:
        super().__init__(database.url, "presentity", max_dialogs=max_dialogs)
        self._faults = faults

    def save_all(self, rows: Sequence[Row]) -> Saved:
        """Store rows, or fail before it or after it."""
        fault = self._faults()
        if fault == "before":
            raise DatabaseError("it was told to fail")
        saved = super().save_all(rows)
        if fault == "after":
            raise DatabaseError("the connection was lost during COMMIT")
        return saved

    def hide(self, ruids: Sequence[str], *, until: int) -> None:
        """Hide rows, or fail before it or after it."""
        fault = self._faults()
        if fault == "before":
            raise DatabaseError("it was told to fail")
        super().hide(ruids, until=until)
        if fault == "after":
            raise DatabaseError("the connection was lost during COMMIT")


class PresenceConsumer:
    """Handles messages as a consumer process does.

    Args:
        host: the SIP server.
        store: the table.
        max_attempts: as the setting, but so many that no message is given up.
        values: further settings.

    Attributes:
        handling: handles messages.
        writer: stores what they announce.
        watchers: are told.
        expiry: ends states.
        functions: what its routes may call.
    """

    def __init__(self, host: FakeHost, table: PresentityTable, *, max_attempts: str = "1000", **values: str) -> None:
        self.host = host
        self.table = table
        self._settings = settings(max_attempts=max_attempts, **values)
        self.start()

    def start(self) -> None:
        """Begin as a new process: nothing is remembered."""
        current, publisher = Current(), Publisher(self._settings)
        parts = wired(self.host, self._settings, self.table)
        self.watchers, self.writer, self.expiry = parts.watchers, parts.writer, parts.expiry
        self.watchers.begin_ticking()
        self.functions = PuaFunctions(
            self._settings,
            self.host,
            current,
            writer=self.writer,
            expiry=self.expiry,
            probe=Probe(self._settings, publisher, None),
            lock=PresenceLock(self.host, "", one_writer=False),
        )
        self._gate = TestedGate(self.host)
        self.handling = EventHandling(
            settings=self._settings,
            host=self.host,
            router=Router(self._settings, self.host, [self]),
            current=current,
            committing=Committing(self._settings, self.host, self.writer, self._gate, current=current),
            gate=self._gate,
            verdicts=Verdicts(self._settings, self.host, self._gate, DeadLetters(self._settings, publisher)),
            tally=Tally(),
            died={},
        )

    def run(self, _name: str, event: Event) -> Outcome:
        """Be the source of the route, as one in Kamailio: the end of the process comes through it."""
        self.publish(event)
        return Outcome.DONE

    def publish(self, _event: Event) -> None:
        """Be the route: `nsq_pua_publish`, whose code a native route does not look at."""
        with suppress(NsqError):
            self.functions.publish(None)

    def handle(self, deliveries: Sequence[Delivery]) -> FakeAnswers:
        """Handle messages that wait together; those that a crash leaves without an answer come again.

        Time has passed since the last ones, so that an outage is over.
        """
        self._gate.pass_time(100)
        answered = FakeAnswers()
        try:
            self.handling.handle(deliveries, answered)
        except Crash:
            self.start()
            return FakeAnswers(requeued=[again(each) for each in deliveries])
        return answered

    def tick(self) -> None:
        """Do what is due besides: hide what is over and was told."""
        try:
            with suppress(DatabaseError):
                self.watchers.tick()
        except Crash:
            self.start()


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
