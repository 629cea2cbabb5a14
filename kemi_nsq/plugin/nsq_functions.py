# SPDX-License-Identifier: GPL-2.0-or-later
"""What routing logic can call to publish and to ask: arguments in, values out, exceptions for what goes wrong.

The two faces give these functions, and those of `pua_functions`, the shapes that a native kamailio.cfg and a Python
script expect; `functions` says how each ends.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable
from functools import partial

import orjson

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, NsqError, PayloadError, QueryFailed, UsageError
from kemi_nsq.host import Host
from kemi_nsq.jsontext import JsonObject, encode, not_json
from kemi_nsq.names import topic_name
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.queries.asker import Asker, failure_reason
from kemi_nsq.queries.protocol import REASON_VARIABLE, REPLY_VARIABLE
from kemi_nsq.relay.handover import Handover
from kemi_nsq.settings import Settings, limits

#: `$var(...)` in which a route may give the next query a timeout of its own, in seconds.
TIMEOUT_VARIABLE = "nsq_query_timeout"
_SHORTEST_QUERY_S, _LONGEST_QUERY_S = limits("query_timeout")
#: So much later than the query itself its transaction ends, if no consumer has resumed it.
_RESUME_S = 1.0
#: How Kamailio writes a variable that is not set: `$var(x)`, and any other (core/pvapi.c). A script has 0 or None.
_UNSET = frozenset({"0", "<null>"})
#: nsqd's default for --max-req-timeout, which bounds DPUB too.
_LONGEST_DELAY_MS = 3_600_000


class Published(enum.IntEnum):  # of integers, because their hash costs less
    """What became of a message."""

    SENT = enum.auto()  #: a nsqd has it
    QUEUED = enum.auto()  #: the relay has it
    KEPT = enum.auto()  #: the outbox has it


class NsqFunctions:
    """Publish, and ask.

    Args:
        settings: what the operator wants.
        host: the SIP server.
        publisher: publishes to NSQ.
        outbox: keeps what cannot be published, or None.
        handover: hands over what the relay shall publish.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        publisher: Publisher,
        outbox: Outbox | None,
        handover: Handover,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._host = host
        self._publisher = publisher
        self._outbox = outbox
        self._handover = handover
        self._asker = Asker(settings, publisher, host.place, partial(host.count, Counter.REPLY_DROPPED), clock)

    def publish(self, topic: str, payload: str | JsonObject) -> Published:
        """Do what `publish_deferred` does without a delay, or with NSQ_PUBLISH_WAIT 0 what `publish_async` does."""
        if self._settings.publish_wait:
            return self.publish_deferred(topic, payload)
        return self.publish_async(topic, payload)

    def publish_async(self, topic: str, payload: str | JsonObject) -> Published:
        """Hand JSON for a topic over to the relay, which publishes it after all that this process handed over before.

        Raises:
            UsageError: the topic or the payload cannot be published, or is a variable that is not set.
            ConnectionLost: there is no relay, or it takes no more.
        """
        _check_set(topic, payload)
        self._handover.put(topic_name(topic), self._body(payload))
        # In the page alone, where it costs less; the relay adds it to the server's copy.
        self._host.page.count(Counter.QUEUED)
        return Published.QUEUED

    def publish_deferred(self, topic: str, payload: str | JsonObject, delay_ms: int | str | None = None) -> Published:
        """Publish JSON to a topic and wait until a nsqd has taken it, or else keep it in the outbox, if there is one.

        Raises:
            UsageError: the topic or the payload cannot be published, or is a variable that is not set.
            ConnectionLost, NsqdRefused: no nsqd took it, and there is no outbox.
            OutboxError: no nsqd took it, and the outbox did not either.
        """
        _check_set(topic, payload)
        message = Outgoing(topic_name(topic), self._body(payload), 0 if delay_ms is None else _delay(delay_ms))
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
            _check_set(topic, payload)
            reply = self._asker.ask(topic_name(topic), payload, timeout_s)
        except NsqError as error:
            self._leave("", failure_reason(error))
            raise
        if not self._leave(reply, ""):
            self._leave("", "bad reply")
            raise QueryFailed("bad reply")
        self._host.count(Counter.QUERIED)
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
            _check_set(topic, payload)
            if not exists(route):
                raise UsageError(f"there is no route or method {route!r} in which the transaction could go on")
            query = self._asker.prepare(topic_name(topic), payload, timeout_s)
            suspended = self._host.suspend_transaction(route, timeout_s + _RESUME_S)
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

    def _body(self, payload: str | JsonObject) -> bytes:
        body = encode(payload) if not isinstance(payload, str) else self._checked(payload)
        if len(body) > self._settings.max_message_size:
            most = self._settings.max_message_size
            raise PayloadError(f"the payload has {len(body)} bytes; NSQ_MAX_MESSAGE_SIZE allows {most}")
        return body

    def _checked(self, payload: str) -> bytes:
        try:
            body = payload.encode("utf-8")
            if not self._settings.publish_raw:
                orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise not_json("payload", error, " (NSQ_PUBLISH_RAW=1 publishes it all the same)") from error
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

    def _leave(self, reply: str, reason: str) -> bool:
        """Set the variables in which a route looks; return whether there was room for the reply."""
        self._host.set_variable(REASON_VARIABLE, reason)
        return self._host.leave_variable(REPLY_VARIABLE, reply)


def _check_set(topic: object, payload: object) -> None:
    """Refuse a variable that is not set: 0 would do as a topic, and as JSON."""
    for what, given in (("topic", topic), ("payload", payload)):
        if given is None or given == 0 or (isinstance(given, str) and given.strip() in _UNSET):
            raise UsageError(f"the {what} is {given!r}, which is what a variable holds that is not set")


def _delay(given: int | str) -> int:
    """Read milliseconds."""
    text = str(given)
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > _LONGEST_DELAY_MS:
        raise PayloadError(f"the delay is {text[:40]!r}; milliseconds from 0 to {_LONGEST_DELAY_MS} are wanted")
    return int(text)
