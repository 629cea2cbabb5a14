# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Python script under `cfgengine "python"` derives its class from."""

from __future__ import annotations

from kemi_nsq.jsontext import JsonObject
from kemi_nsq.names import encode_key
from kemi_nsq.plugin.plugin import Plugin


class KemiNsq(Plugin):
    """Base of the operator's class under `cfgengine "python"`; `mod_init` returns an instance of it."""

    def ksr_nsq_consumer(self, _msg: object, _index: str) -> int:
        """Consume for ever; called once in each evrexec process. Never returns."""
        return self._consume()

    def nsq_pua_publish(self, payload: str | None = None) -> int:
        """Publish the presence that a payload announces: the current event's, or the one given.

        Returns:
            1 stored, 2 nothing to do (stale, duplicate, unchanged), -1 invalid, -2 database error: the event comes
            again.
        """
        return self._pua_publish(payload)

    def nsq_pua_reset(self, scope: str | None = None) -> int:
        """End all states of a scope, as if each had been announced: calls terminated, presence closed, mailboxes empty.

        The scope is `sender URI`, `user URI`, `realm DOMAIN` or `all`; left out, the sender of the current event, which
        can end no other's states.

        Returns:
            1 done, 2 there were none, -1 no such scope, -2 database error: the event comes again.
        """
        return self._pua_reset(scope)

    def ksr_nsq_reset(self, _msg: object, scope: str) -> int:
        """Reset a scope: `kamcmd evrexec.run ksr_nsq_reset "realm example.com"`."""
        return self._pua_reset(scope)

    def nsq_pua_probe(self, presentity: str, event: str) -> int:
        """Ask producers, on NSQ_PROBE_TOPIC, for the state of a presentity that has none; each at most every 30 s.

        Returns:
            1 a probe left, 2 not needed, -1 it failed.
        """
        return self._pua_probe(presentity, event)

    def nsq_publish(self, topic: str, payload: str | JsonObject) -> int:
        """Publish JSON, a text or a dictionary, to a topic, and wait until nsqd has taken it.

        Returns:
            1 nsqd took it, 2 the outbox keeps it until one does, -1 it was not published.
        """
        return self._publish(topic, payload)

    def nsq_publish_deferred(self, topic: str, delay_ms: int, payload: str | JsonObject) -> int:
        """Publish JSON that nsqd delivers after a delay of up to 3600000 milliseconds.

        Returns:
            1 nsqd took it, 2 the outbox keeps it until one does, -1 it was not published.
        """
        return self._publish(topic, payload, delay_ms)

    def nsq_query(self, topic: str, payload: str | JsonObject, timeout: float | None = None) -> str | None:
        """Publish a request and wait for its reply.

        Args:
            topic: where a responder listens.
            payload: a JSON object, as text or dictionary.
            timeout: seconds; NSQ_QUERY_TIMEOUT where left out.

        Returns:
            The reply, JSON text; or None, and `$var(nqErr)` is `timeout`, `no nsqd`, `bad payload`, `no consumer` or
            `bad reply`.
        """
        return self._query(topic, payload, timeout)

    def nsq_query_async(self, topic: str, payload: str | JsonObject, route: str) -> int:
        """Publish a request and suspend the SIP transaction; it goes on in a method when there is a reply, or none.

        Call `KSR.tm.t_newtran()` before. `route` is a method of the handler. Kamailio calls it with the message; later
        versions may add an event name, so give it a second argument with a default. It finds the reply in `$var(nqR)`,
        or the reason for none in `$var(nqErr)`.

        Returns:
            1 the transaction is suspended and will go on in that method whatever happens: return from the route; -1
            it is not suspended.
        """
        return self._query_async(topic, payload, route, lambda name: callable(getattr(self, name, None)))

    def ksr_nsq_continued(self, *arguments: object) -> object:
        """Go on with a suspended transaction in the method that nsq_query_async named."""
        return getattr(self, self._parts.host.resumed_route())(*arguments)

    def nsq_json(self, path: str, payload: str) -> str | None:
        """Return the value at a path of JSON text, or None if it is missing or null, or the text is no JSON.

        The path is like `Channels[0].switch_url`; `%` stands for a dot of the key.
        """
        return self._json(path, payload)

    def nsq_encode(self, text: str | None) -> str:
        """Return text encoded as a part of a routing key, as kazoo does; '' for None, an unset pseudo-variable."""
        return encode_key(text or "")
