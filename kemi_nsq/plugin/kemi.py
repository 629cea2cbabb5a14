# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Python script under `cfgengine "python"` derives its class from.

Each docstring says how a method is called, and returns if that is not a code; what the function does, and what its
codes mean, stands in `functions`.
"""

from __future__ import annotations

from kemi_nsq.jsontext import JsonObject, lookup
from kemi_nsq.names import encode_key
from kemi_nsq.plugin.face import Face


class KemiNsq(Face):
    """Base of the operator's class under `cfgengine "python"`; `mod_init` returns an instance of it."""

    def ksr_nsq_consumer(self, _msg: object, _index: str) -> int:
        """Consume for ever; called once in each evrexec process. Never returns."""
        return self._consume()

    def ksr_nsq_relay(self, _msg: object, _index: str) -> int:
        """Forward what nsq_publish_async hands over, for ever; called once in an evrexec process. Never returns."""
        return self._relay()

    def nsq_pua_publish(self, payload: str | None = None) -> int:
        """Arguments: the payload, JSON text, or none."""
        return self._call("nsq_pua_publish", self._parts.pua.publish, payload).code

    def nsq_pua_reset(self, scope: str | None = None) -> int:
        """Arguments: the scope, or none."""
        return self._call("nsq_pua_reset", self._parts.pua.reset, scope).code

    def ksr_nsq_reset(self, _msg: object, scope: str) -> int:
        """Reset a scope: `kamcmd evrexec.run ksr_nsq_reset "realm example.com"`."""
        return self.nsq_pua_reset(scope)

    def nsq_pua_handle(self) -> int:
        """For the request that is being handled."""
        return self._handle()

    def nsq_pua_probe(self, presentity: str, event: str) -> int:
        """Arguments: the presentity's URI and the event package."""
        return self._call("nsq_pua_probe", self._parts.pua.probe, presentity, event).code

    def nsq_publish(self, topic: str, payload: str | JsonObject) -> int:
        """Arguments: the topic and JSON, a text or a dictionary."""
        return self._call("nsq_publish", self._parts.nsq.publish, topic, payload).code

    def nsq_publish_async(self, topic: str, payload: str | JsonObject) -> int:
        """Arguments: the topic and JSON, a text or a dictionary."""
        return self._call("nsq_publish_async", self._parts.nsq.publish_async, topic, payload).code

    def nsq_publish_deferred(self, topic: str, delay_ms: int, payload: str | JsonObject) -> int:
        """Arguments: the topic, milliseconds, and JSON, a text or a dictionary."""
        return self._call("nsq_publish_deferred", self._parts.nsq.publish_deferred, topic, payload, delay_ms).code

    def nsq_query(self, topic: str, payload: str | JsonObject, timeout: float | None = None) -> str | None:
        """Arguments: the topic, the request as text or dictionary, and seconds, NSQ_QUERY_TIMEOUT where left out.

        What it returns is the reply, JSON text, or None.
        """
        return self._call("nsq_query", self._parts.nsq.query, topic, payload, timeout).value

    def nsq_query_async(self, topic: str, payload: str | JsonObject, route: str) -> int:
        """Arguments: the topic, the request as text or dictionary, and the name of the method in which it goes on.

        Call `KSR.tm.t_newtran()` before, and return from the route afterwards. Kamailio calls the method with the
        message; later versions may add an event name, so give it a second argument with a default.
        """
        work = self._parts.nsq.query_async
        return self._call("nsq_query_async", work, topic, payload, route, self._has_method).code

    def ksr_nsq_continued(self, *arguments: object) -> object:
        """Go on with a suspended transaction in the method that nsq_query_async named."""
        # A consumer process runs this, not the worker that suspended the transaction, whose `$var` and objects are not
        # here. What is, `supervisor` has set just before.
        return getattr(self._script.face, self._parts.host.resumed_route())(*arguments)

    def nsq_json(self, path: str, payload: str) -> str | None:
        """Arguments: the path and the JSON. What it returns is the value, or None."""
        return self._call("nsq_json", lookup, path, payload).value

    def nsq_encode(self, text: str | None) -> str:
        """Return text encoded as a part of a routing key, as kazoo does; '' for None, an unset pseudo-variable."""
        return encode_key(text or "")

    def _has_method(self, name: str) -> bool:
        return callable(getattr(self, name, None))
