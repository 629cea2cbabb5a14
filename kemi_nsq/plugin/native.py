# SPDX-License-Identifier: GPL-2.0-or-later
"""What a native kamailio.cfg calls: `python_exec("name", "text")` is a method here, given the message and the text."""

from __future__ import annotations

import re

from kemi_nsq.names import encode_key
from kemi_nsq.plugin.plugin import FAILED, OK, Plugin, entry

#: Where `nsq_json` and `nsq_encode` leave their result.
RESULT_VARIABLE = "nqJ"


class NativeNsq(Plugin):
    """For a native kamailio.cfg: each method is called by `python_exec`, with one text or none."""

    _native = True

    @entry
    def nsq_consumer(self, _msg: object) -> int:
        """Consume for ever; called once in each evrexec process. Never returns."""
        return self._consume()

    @entry
    def nsq_pua_publish(self, _msg: object, payload: str | None = None) -> int:
        """Publish the presence that a payload announces: the current event's, or the one given.

        Text: the payload, or nothing.

        Returns:
            1 stored, 2 nothing to do (stale, duplicate, unchanged), -1 invalid, -2 database error: the event comes
            again.
        """
        return self._pua_publish(payload)

    @entry
    def nsq_pua_reset(self, _msg: object, scope: str | None = None) -> int:
        """End all states of a scope, as if each had been announced: calls terminated, presence closed, mailboxes empty.

        Text: `sender URI`, `user URI`, `realm DOMAIN` or `all`; nothing for the sender of the current event, which can
        end no other's states.

        Returns:
            1 done, 2 there were none, -1 no such scope, -2 database error: the event comes again.
        """
        return self._pua_reset(scope)

    @entry
    def nsq_pua_probe(self, _msg: object, text: str = "") -> int:
        """Ask producers, on NSQ_PROBE_TOPIC, for the state of a presentity that has none; each at most every 30 s.

        Text: the presentity's URI, a blank, the event package.

        Returns:
            1 a probe left, 2 not needed, -1 it failed.
        """
        presentity, event = _split(text, 2)
        return self._pua_probe(presentity, event)

    @entry
    def nsq_publish(self, _msg: object, text: str = "") -> int:
        """Publish JSON to a topic, and wait until nsqd has taken it.

        Text: the topic, a blank, the payload.

        Returns:
            1 nsqd took it, 2 the outbox keeps it until one does, -1 it was not published.
        """
        topic, payload = _split(text, 2)
        return self._publish(topic, payload)

    @entry
    def nsq_publish_deferred(self, _msg: object, text: str = "") -> int:
        """Publish JSON that nsqd delivers after a delay.

        Text: the topic, a blank, milliseconds (up to 3600000), a blank, the payload.

        Returns:
            1 nsqd took it, 2 the outbox keeps it until one does, -1 it was not published.
        """
        topic, delay_ms, payload = _split(text, 3)
        return self._publish(topic, payload, _whole(delay_ms))

    @entry
    def nsq_query(self, _msg: object, text: str = "") -> int:
        """Publish a request and wait for its reply, which is then in `$var(nqR)`.

        Text: the topic, a blank, a JSON object. `$var(nsq_query_timeout)`, in seconds, overrides NSQ_QUERY_TIMEOUT for
        one call.

        Returns:
            1 there is a reply, -1 there is none: `$var(nqR)` is empty and `$var(nqErr)` is `timeout`, `no nsqd`,
            `bad payload`, `no consumer` or `bad reply`.
        """
        topic, payload = _split(text, 2)
        return FAILED if self._query(topic, payload) is None else OK

    @entry
    def nsq_query_async(self, _msg: object, text: str = "") -> int:
        """Publish a request and suspend the SIP transaction; it goes on in a route when there is a reply, or none.

        Text: the topic, a blank, the name of a `route`, a blank, a JSON object. `t_newtran()` must precede and `exit`
        must follow. The route finds `$var(nqR)` and `$var(nqErr)` as after nsq_query.

        Returns:
            1 the transaction is suspended and will go on in the route whatever happens, -1 it is not suspended.
        """
        topic, route, payload = _split(text, 3)
        return self._query_async(topic, payload, route, self._parts.host.has_route)

    @entry
    def nsq_json(self, _msg: object, text: str = "") -> int:
        """Pick a value from JSON and leave it in `$var(nqJ)`.

        Text: the path (`Channels[0].switch_url`; `%` stands for a dot of the key), a blank, the JSON.

        Returns:
            1 found, -1 missing, null, or no JSON: `$var(nqJ)` is empty.
        """
        value = self._json(*_split(text, 2))
        self._parts.host.set_variable(RESULT_VARIABLE, (value or "").replace("\0", ""))  # which no variable holds
        return FAILED if value is None else OK

    @entry
    def nsq_encode(self, _msg: object, text: str = "") -> int:
        """Encode text as a part of a routing key, as kazoo does, and leave it in `$var(nqJ)`.

        Returns:
            1 always.
        """
        self._parts.host.set_variable(RESULT_VARIABLE, encode_key(text))
        return OK


def _split(text: str, count: int) -> list[str]:
    """Cut the text of `python_exec` at its first blanks into `count` parts; missing ones are empty."""
    parts = text.split(" ", count - 1)
    return parts + [""] * (count - len(parts))


def _whole(text: str) -> int:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else -1
