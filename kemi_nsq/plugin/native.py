# SPDX-License-Identifier: GPL-2.0-or-later
"""What a native kamailio.cfg calls: `python_exec("name", "text")` is a method here, given the message and the text.

Each docstring says what the text is; what the function does, and what it returns, stands in `functions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kemi_nsq.jsontext import lookup
from kemi_nsq.loading import nearest
from kemi_nsq.names import encode_key
from kemi_nsq.plugin.face import Face, entry
from kemi_nsq.plugin.functions import FAILED, NOT_FOR_ROUTES, OK, no_function

#: What nsq.cfg calls besides the functions.
OF_NSQ_CFG = ("notify_unanswered",)
#: Where `nsq_json` and `nsq_encode` leave their result.
RESULT_VARIABLE = "nqJ"


class NativeNsq(Face):
    """For a native kamailio.cfg: each method is called by `python_exec`, with one text or none."""

    _native = True

    if not TYPE_CHECKING:  # or mypy would take every name for one that is here

        def __getattr__(self, name: str) -> Callable[..., int]:
            """Answer a call by a name that is none with one line and -1.

            Without it Kamailio logs which name it was, and 5.6 leaves Python's error behind, by which the next call of
            that process fails. What Kamailio itself may look for, and Python, is absent as ever.
            """
            if name.startswith(("_", "ksr_")):
                raise AttributeError(name)
            return entry(lambda *_given: self._parts.calls.unknown(name, no_function(self._meant(name))))

    def _wrong_function(self, name: str) -> str:
        if name in (*self._functions(), *OF_NSQ_CFG):
            return ""
        return NOT_FOR_ROUTES if hasattr(type(self), name) else no_function(self._meant(name))

    def _functions(self) -> list[str]:
        """List what routes may call, of ours and of the operator's: not what Kamailio or Python calls."""
        return [name for name in dir(type(self)) if name[0] != "_" and not hasattr(Face, name)]

    def _meant(self, name: str) -> str:
        """Return the function that a misspelled name looks like most."""
        return nearest(name.lower(), self._functions())

    @entry
    def nsq_consumer(self, _msg: object) -> int:
        """Consume for ever; called once in each evrexec process. Never returns."""
        return self._consume()

    @entry
    def nsq_relay(self, _msg: object) -> int:
        """Forward what nsq_publish_async hands over, for ever; called once in an evrexec process. Never returns."""
        return self._relay()

    @entry
    def nsq_pua_publish(self, _msg: object, payload: str | None = None) -> int:
        """Text: the payload, or nothing."""
        return self._call("nsq_pua_publish", self._parts.pua.publish, payload).code

    @entry
    def nsq_pua_reset(self, _msg: object, scope: str | None = None) -> int:
        """Text: the scope, or nothing."""
        return self._call("nsq_pua_reset", self._parts.pua.reset, scope).code

    @entry
    def nsq_pua_handle(self, _msg: object) -> int:
        """For the request that is being handled; `route(NSQ_PRESENCE)` of nsq.cfg calls it."""
        return self._handle()

    @entry
    def nsq_pua_probe(self, _msg: object, text: str = "") -> int:
        """Text: the presentity's URI, a blank, the event package."""
        return self._call("nsq_pua_probe", self._parts.pua.probe, *_split(text, 2)).code

    @entry
    def nsq_publish(self, _msg: object, text: str = "") -> int:
        """Text: the topic, a blank, the payload."""
        topic, payload = _split(text, 2)
        return self._call("nsq_publish", self._parts.nsq.publish, topic, payload).code

    @entry
    def nsq_publish_async(self, _msg: object, text: str = "") -> int:
        """Text: the topic, a blank, the payload."""
        topic, payload = _split(text, 2)
        return self._call("nsq_publish_async", self._parts.nsq.publish_async, topic, payload).code

    @entry
    def nsq_publish_deferred(self, _msg: object, text: str = "") -> int:
        """Text: the topic, a blank, milliseconds, a blank, the payload."""
        topic, delay_ms, payload = _split(text, 3)
        return self._call("nsq_publish_deferred", self._parts.nsq.publish_deferred, topic, payload, delay_ms).code

    @entry
    def nsq_query(self, _msg: object, text: str = "") -> int:
        """Text: the topic, a blank, the request. The reply is then in `$var(nqR)`.

        `$var(nsq_query_timeout)`, in seconds, overrides NSQ_QUERY_TIMEOUT for one call.
        """
        topic, payload = _split(text, 2)
        return self._call("nsq_query", self._parts.nsq.query, topic, payload).code

    @entry
    def nsq_query_async(self, _msg: object, text: str = "") -> int:
        """Text: the topic, a blank, the name of the `route` in which the transaction goes on, a blank, the request.

        `t_newtran()` must precede and `exit` must follow.
        """
        topic, route, payload = _split(text, 3)
        work, exists = self._parts.nsq.query_async, self._parts.host.has_route
        return self._call("nsq_query_async", work, topic, payload, route, exists).code

    @entry
    def nsq_json(self, _msg: object, text: str = "") -> int:
        """Text: the path, a blank, the JSON. The value is left in `$var(nqJ)`, empty where there is none."""
        done = self._call("nsq_json", lookup, *_split(text, 2))
        value = (done.value or "").replace("\0", "")  # which no variable holds
        return done.code if self._parts.host.leave_variable(RESULT_VARIABLE, value) else FAILED

    @entry
    def nsq_encode(self, _msg: object, text: str = "") -> int:
        """Text: anything. Encoded as a part of a routing key, as kazoo does, it is left in `$var(nqJ)`. Returns 1."""
        self._parts.host.set_variable(RESULT_VARIABLE, encode_key(text))
        return OK


def _split(text: str, count: int) -> list[str]:
    """Cut the text of `python_exec` at its first blanks into `count` parts; missing ones are empty."""
    parts = text.split(" ", count - 1)
    return parts + [""] * (count - len(parts))
