# SPDX-License-Identifier: GPL-2.0-or-later
"""What routing logic can call about presence: publish a state, end states, have producers asked for theirs."""

from __future__ import annotations

from contextlib import suppress

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Current
from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError, RowRefused
from kemi_nsq.event import Event
from kemi_nsq.host import Host
from kemi_nsq.jsontext import JsonObject, field_text, json_object
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.expiry import Expiry
from kemi_nsq.presence.lock import PresenceLock
from kemi_nsq.presence.packages.state import sender_of
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.row import Order, position_of
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.settings import Settings

#: Of an event that was not taken from NSQ; sorts before all that were, at the same time.
_NO_MESSAGE_ID = "0" * 16
_NO_TABLE = "NSQ_DB_URL is not set, so there is no presentity table to"


class PuaFunctions:
    """Publish presence, reset it, probe for it.

    Args:
        settings: what the operator wants.
        host: the SIP server.
        current: the message that is being handled.
        writer: stores states; None where there is no presentity table.
        expiry: ends states; None likewise.
        probe: asks producers for their state.
        lock: held by consumers while they write or send a NOTIFY.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        current: Current,
        *,
        writer: PresenceWriter | None,
        expiry: Expiry | None,
        probe: Probe,
        lock: PresenceLock,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._host = host
        self._current = current
        self._writer = writer
        self._expiry = expiry
        self._probe = probe
        self._lock = lock
        self._clock = clock

    def publish(self, payload: str | None) -> Change:
        """Publish the presence that a payload announces, or the current event where it is None.

        While several events are handled together, the row is only collected: STORED then means that it will be written
        with the others, or the event comes again.

        Raises:
            PayloadError: the payload describes no state; the current event goes to the dead letters.
            DatabaseError: the database failed; the current event will come again.
        """
        event = self._current.event
        try:
            fields = _fields(event, payload)
            order = self._order(event, fields)
            if self._writer is None:
                raise PayloadError(f"{_NO_TABLE} write to")
            row = self._writer.row(
                fields,
                order,
                sent_at=event.timestamp_ns / 1e9 if event else None,
                replayed=event is not None and event.replays > 0,
            )
            if row is None:
                return Change.STALE
            return Change.STORED if self._current.collect(row) else self._writer.commit([row])[0]
        except PayloadError as error:
            self._current.refuse(str(error))
            raise
        except Exception as error:
            self._current.fail(error)
            raise

    def reset(self, scope: str | None) -> int:
        """End all states of a scope (see `Expiry.reset`), and return how many there were.

        Where it is None, the scope is the sender of the current event: an event can end no other's states.

        Raises:
            PayloadError: there is no such scope, or no presentity table.
            DatabaseError: the database failed; the current event will come again.
        """
        if self._expiry is None or self._writer is None:
            raise PayloadError(f"{_NO_TABLE} reset")
        try:
            self._commit_collected(self._writer)
            if scope is not None:
                return self._expiry.reset(scope, position=self._expiry.now_position(), spare_later=False)
            event = self._current.event
            if event is None:
                raise PayloadError("outside an event route nsq_pua_reset needs a scope")
            ordered = self._settings.pua_order_field in ("", *event.fields)
            position = self._order(event, event.fields).position if ordered else 0
            return self._expiry.reset(f"sender {sender_of(event.fields)}", position=position, spare_later=ordered)
        except PayloadError:  # the scope is wrong, perhaps by the route's fault: the event may be of use all the same
            raise
        except Exception as error:
            self._current.fail(error)
            raise

    def handle(self) -> bool:
        """Have the presence module answer the SUBSCRIBE or PUBLISH that is being handled, while no consumer writes.

        Raises:
            UsageError: it is another request, or there is no presence module.
        """
        with self._lock.held("nsq_pua_handle"):
            taken = self._host.handle_request()
        if not taken:
            self._host.count(Counter.REQUEST_REFUSED)
        return taken

    def probe(self, presentity: str, package: str) -> bool:
        """Ask producers for a presentity's state if there is none; return whether a probe left.

        Raises:
            PayloadError, TransientError: see `Probe.one`.
        """
        left = self._probe.one(presentity, package)
        if left:
            self._host.count(Counter.PROBED)
        return left

    def _commit_collected(self, writer: PresenceWriter) -> None:
        """Store what earlier events of the batch published, so that a reset finds it.

        What the database refuses is left out here, and told when the batch is committed.
        """
        collected = self._current.collected()
        if not collected:
            return
        try:
            writer.commit(collected)
        except RowRefused:
            for row in collected:
                with suppress(RowRefused):
                    writer.commit([row])

    def _order(self, event: Event | None, fields: JsonObject) -> Order:
        if name := self._settings.pua_order_field:
            position = position_of(name, field_text(fields, name))
        else:
            position = event.timestamp_ns if event else self._clock.wall_ns()
        if event is None:
            return Order(position, _NO_MESSAGE_ID)
        return Order(position, event.message_id, event.topic, event.timestamp_ns / 1e9, event.attempts > 1)


def _fields(event: Event | None, payload: str | None) -> JsonObject:
    """Return the fields of a payload; those of the event being handled are decoded already."""
    if event is not None and payload in (None, event.payload):
        return event.fields
    if payload is None:
        raise PayloadError("outside an event route a payload is needed")
    return json_object(payload)
