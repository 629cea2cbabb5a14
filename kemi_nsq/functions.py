# SPDX-License-Identifier: GPL-2.0-or-later
"""What routing logic can call, in terms of Python: arguments in, values out, exceptions for what goes wrong.

`plugin` gives these functions the shapes that a native kamailio.cfg and a Python script expect.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable

import orjson

from kemi_nsq.asker import Asker, failure_reason
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, NameRefused, NsqError, PayloadError, QueryFailed, StoreError, UsageError
from kemi_nsq.event import Event, JsonObject, field_text, json_object
from kemi_nsq.host import Host
from kemi_nsq.names import topic_name
from kemi_nsq.outbox import Outbox
from kemi_nsq.presence import sender_of
from kemi_nsq.presentity import Order, position_of
from kemi_nsq.probe import Probe
from kemi_nsq.pua import PresencePublisher
from kemi_nsq.publisher import Outgoing, Publisher
from kemi_nsq.query import REASON_VARIABLE, REPLY_VARIABLE, encode
from kemi_nsq.routes import Current
from kemi_nsq.settings import Settings
from kemi_nsq.store import Change
from kemi_nsq.upkeep import Upkeep

#: `$var(...)` in which a route may give the next query a timeout of its own, in seconds.
TIMEOUT_VARIABLE = "nsq_query_timeout"
#: As of NSQ_QUERY_TIMEOUT.
_SHORTEST_QUERY_S, _LONGEST_QUERY_S = 0.01, 300.0
#: nsqd's default for --max-req-timeout, which bounds DPUB too.
_LONGEST_DELAY_MS = 3_600_000
#: Of an event that was not taken from NSQ; sorts before all that were, at the same time.
_NO_MESSAGE_ID = "0" * 16


class Published(enum.Enum):
    """What became of a message."""

    SENT = enum.auto()  #: a nsqd has it
    KEPT = enum.auto()  #: the outbox has it


class Functions:
    """The functions of this package.

    Args:
        settings: what the operator wants.
        host: the SIP server.
        current: the event that is being handled.
        pua: publishes presence.
        publisher: publishes to NSQ.
        outbox: keeps what cannot be published, or None.
        upkeep: ends states; None where there is no presentity table.
        probe: asks producers for their state.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        *,
        settings: Settings,
        host: Host,
        current: Current,
        pua: PresencePublisher,
        publisher: Publisher,
        outbox: Outbox | None,
        upkeep: Upkeep | None,
        probe: Probe,
    ) -> None:
        self._settings = settings
        self._host = host
        self._current = current
        self._pua = pua
        self._publisher = publisher
        self._outbox = outbox
        self._upkeep = upkeep
        self._probe = probe
        self._asker = Asker(settings, publisher)

    def pua_publish(self, payload: str | None) -> Change:
        """Publish the presence that a payload announces, or the current event where it is None.

        While several events are handled together, the row is only collected: STORED then means that it will be written
        with the others, or the event comes again.

        Raises:
            PayloadError: the payload describes no state; the current event goes to the dead letters.
            StoreError: the database failed; the current event will come again.
        """
        event = self._current.event
        try:
            fields = _fields(event, payload)
            row = self._pua.row(
                fields,
                self._order(event, fields),
                sent_at=event.timestamp_ns / 1e9 if event else None,
                redelivered=event is not None and event.attempts > 1,
            )
            if row is None:
                return Change.STALE
            if self._current.collected is None:
                return self._pua.commit([row])[0]
            self._current.collected.append(row)
            return Change.STORED
        except PayloadError as error:
            self._current.invalid = str(error)
            raise
        except StoreError:
            self._current.store_failed = True
            raise

    def pua_reset(self, scope: str | None) -> int:
        """End all states of a scope (see `Upkeep.reset`), and return how many there were.

        Where it is None, the scope is the sender of the current event: an event can end no other's states.

        Raises:
            PayloadError: there is no such scope, or no presentity table.
            StoreError: the database failed; the current event will come again.
        """
        if self._upkeep is None:
            raise PayloadError("NSQ_DB_URL is not set, so there is no presentity table to reset")
        try:
            self._commit_collected()
            if scope is not None:
                return self._upkeep.reset(scope, position=self._now_position(), spare_later=False)
            event = self._current.event
            if event is None:
                raise PayloadError("outside an event route nsq_pua_reset needs a scope")
            ordered = self._settings.pua_order_field in ("", *event.fields)
            position = self._order(event, event.fields).position if ordered else 0
            return self._upkeep.reset(f"sender {sender_of(event.fields)}", position=position, spare_later=ordered)
        except StoreError:
            self._current.store_failed = True
            raise

    def pua_probe(self, presentity: str, event: str) -> bool:
        """Ask producers for a presentity's state if there is none; return whether a probe left.

        Raises:
            PayloadError, TransientError: see `Probe.one`.
        """
        left = self._probe.one(presentity, event)
        if left:
            self._host.count(Counter.PROBED)
        return left

    def _commit_collected(self) -> None:
        """Store what earlier events of the batch published, so that a reset finds it."""
        if self._current.collected:
            self._pua.commit(self._current.collected)

    def _now_position(self) -> int:
        """Return a position after all that was published; 0 where producers count in their own way."""
        return 0 if self._settings.pua_order_field else time.time_ns()

    def publish(self, topic: str, payload: str | JsonObject, delay_ms: int = 0) -> Published:
        """Publish JSON to a topic and wait until a nsqd has taken it, or else keep it in the outbox, if there is one.

        Raises:
            NameRefused, PayloadError: the topic or the payload cannot be published.
            ConnectionLost, NsqdRefused: no nsqd took it, and there is no outbox.
            StoreError: no nsqd took it, and the outbox did not either.
        """
        if not 0 <= delay_ms <= _LONGEST_DELAY_MS:
            raise PayloadError(f"a delay of {delay_ms} ms; 0 to {_LONGEST_DELAY_MS} are allowed")
        body = self._body(payload)
        message = Outgoing(topic=_topic(topic), body=body, delay_ms=delay_ms)
        try:
            self._publisher.publish(message)
        except ConnectionLost:
            if self._outbox is None:
                raise
            self._outbox.keep(message)
            self._host.count(Counter.OUTBOX_KEPT)
            return Published.KEPT
        self._host.count(Counter.PUBLISHED)
        return Published.SENT

    def query(self, topic: str, payload: str | JsonObject, timeout_s: float | None = None) -> str:
        """Publish a request and wait for its reply, which is also left in `$var(nqR)`.

        Args:
            topic: where a responder listens.
            payload: a JSON object.
            timeout_s: seconds; None for `$var(nsq_query_timeout)` if it is set, else NSQ_QUERY_TIMEOUT.

        Raises:
            NsqError: there is no reply; `$var(nqR)` is empty and `$var(nqErr)` says why.
        """
        try:
            timeout_s = self._timeout(timeout_s)
            reply = self._asker.ask(_topic(topic), payload, timeout_s)
        except NsqError as error:
            self._leave("", failure_reason(error))
            raise
        self._host.count(Counter.QUERIED)
        self._leave(reply, "")
        return reply

    def query_async(self, topic: str, payload: str | JsonObject, route: str, exists: Callable[[str], bool]) -> None:
        """Publish a request and suspend the SIP transaction; it goes on in `route` with the reply, or without.

        Args:
            topic: where a responder listens.
            payload: a JSON object.
            route: a native route, or a Python method.
            exists: whether there is one of a name.

        Raises:
            NsqError: the transaction is not suspended, and goes on where it is; `$var(nqErr)` says why.
        """
        try:
            timeout_s = self._timeout(None)
            if not exists(route):
                raise UsageError(f"there is no route or method {route!r} in which the transaction could go on")
            query = self._asker.prepare(_topic(topic), payload, timeout_s)
            suspended = self._host.suspend_transaction(route)
            if suspended is None:
                raise UsageError("there is no SIP request here whose transaction could be suspended")
        except NsqError as error:
            self._leave("", failure_reason(error))
            raise
        # From here on the transaction goes on in `route` whatever happens.
        try:
            sent = self._asker.ask_later(query, suspended)
        except QueryFailed as error:
            self._leave("", error.reason)
            self._host.continue_transaction(suspended)
            sent = False
        self._host.count(Counter.QUERIED if sent else Counter.QUERY_FAILED)

    def _order(self, event: Event | None, fields: JsonObject) -> Order:
        message_id = event.message_id if event else _NO_MESSAGE_ID
        if name := self._settings.pua_order_field:
            return Order(position=position_of(name, field_text(fields, name)), message_id=message_id)
        return Order(position=event.timestamp_ns if event else time.time_ns(), message_id=message_id)

    def _body(self, payload: str | JsonObject) -> bytes:
        if not isinstance(payload, str):
            return encode(payload)
        try:
            body = payload.encode("utf-8")
            if not self._settings.publish_raw:
                orjson.loads(body)
        except orjson.JSONDecodeError as error:
            where = f"{error.msg} at line {error.lineno} column {error.colno}"
            raise PayloadError(
                f"the payload is not JSON: {where} (NSQ_PUBLISH_RAW=1 publishes it all the same)"
            ) from error
        except UnicodeEncodeError as error:
            raise PayloadError(f"the payload cannot be written as UTF-8: {error.reason}") from error
        return body

    def _timeout(self, given_s: float | None) -> float:
        text = self._host.variable(TIMEOUT_VARIABLE)
        if text:  # for one call only: `$var` outlives the SIP request
            self._host.set_variable(TIMEOUT_VARIABLE, "")
        try:
            wanted_s = given_s if given_s is not None else float(text or self._settings.query_timeout)
            if math.isnan(wanted_s):
                raise ValueError
        except ValueError as error:
            found = f"$var({TIMEOUT_VARIABLE}) is {text!r}" if given_s is None else f"the timeout is {given_s}"
            raise PayloadError(f"{found}; a number of seconds is wanted") from error
        return min(max(wanted_s, _SHORTEST_QUERY_S), _LONGEST_QUERY_S)

    def _leave(self, reply: str, reason: str) -> None:
        self._host.set_variable(REPLY_VARIABLE, reply)
        self._host.set_variable(REASON_VARIABLE, reason)


def _topic(name: str) -> str:
    try:
        return topic_name(name)
    except ValueError as error:
        raise NameRefused(str(error)) from error


def _fields(event: Event | None, payload: str | None) -> JsonObject:
    """Return the fields of a payload; those of the event being handled are decoded already."""
    if event is not None and payload in (None, event.payload):
        return event.fields
    if payload is None:
        raise PayloadError("outside an event route a payload is needed")
    return json_object(payload)
