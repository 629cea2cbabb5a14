# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of calls.cfg in Python. Kamailio loads this file from a folder that has `nsq.py` beside it."""

from __future__ import annotations

import KSR
import nsq  # noqa: F401  # makes the package known

# isort: split
from kemi_nsq import Event, KemiNsq, event_route

#: Native names of routes in the texts of tests.
METHODS = {"ANSWERED": "answered", "TWICE": "twice", "RELAYED": "relayed"}


class Kamailio(KemiNsq):
    """Calls what a request names."""

    def ksr_request_route(self, msg: object) -> int:
        if KSR.is_method("OPTIONS"):
            KSR.sl.sl_send_reply(200, "OK")
        elif KSR.is_method("ACK"):
            KSR.tm.t_check_trans()
        elif KSR.is_method("CANCEL"):
            if KSR.tm.t_check_trans() > 0:
                KSR.tm.t_relay()
        elif KSR.hdr.get("X-Call") == "failure":
            KSR.tm.t_on_failure("ksr_busy")
            KSR.tm.t_relay()
        elif KSR.hdr.get("X-Newtran") is None or KSR.tm.t_newtran() > 0:
            self.call(str(KSR.hdr.get("X-Call")), KSR.pv.get("$rb") or "")
        return 1

    def call(self, name: str, text: str) -> None:
        """Call a function with the text that it has in calls.cfg, cut for Python."""
        for variable in ("nqR", "nqErr", "nqJ"):
            KSR.pv.sets(f"$var({variable})", "stale")
        if timeout := KSR.hdr.get("X-Timeout"):
            KSR.pv.sets("$var(nsq_query_timeout)", timeout)
        if fr := KSR.hdr.get("X-Fr"):
            KSR.tm.t_set_fr(int(fr), int(fr))
        first, _, rest = text.partition(" ")
        code = -1
        if name in {"nsq_publish", "nsq_publish_async"}:
            code = getattr(self, name)(first, rest)
        elif name == "nsq_publish_deferred":
            delay_ms, _, payload = rest.partition(" ")
            code = self.nsq_publish_deferred(first, int(delay_ms), payload)
        elif name == "nsq_query":
            reply = self.nsq_query(first, rest)
            code = -1 if reply is None else 1
        elif name == "nsq_query_async":
            route, _, payload = rest.partition(" ")
            code = self.nsq_query_async(first, payload, METHODS.get(route, route))
            if code > 0:
                return
        elif name == "nsq_json":
            value = self.nsq_json(first, rest)
            code = -1 if value is None else 1
            KSR.pv.sets("$var(nqJ)", value or "")
        elif name == "nsq_encode":
            KSR.pv.sets("$var(nqJ)", self.nsq_encode(text))
            code = 1
        self.result(code)
        KSR.sl.send_reply(200, "OK")

    def result(self, code: int) -> None:
        """Add the code and what the function left to the answer."""
        reply = KSR.pv.get("$var(nqR)") or ""
        KSR.hdr.append_to_reply(
            f"X-Code: {code}\r\n"
            f"X-Reason: {KSR.pv.get('$var(nqErr)') or ''}\r\n"
            f"X-Value: {KSR.pv.get('$var(nqJ)') or ''}\r\n"
            f"X-Length: {len(reply.encode())}\r\n"
        )
        if len(reply) < 200:
            KSR.hdr.append_to_reply(f"X-Reply: {reply}\r\n")

    def answered(self, msg: object, event_name: str = "") -> int:
        KSR.notice(f"test: resumed {KSR.pv.get('$ci')} in {KSR.pv.get('$pp')}\n")
        self.result(1)
        KSR.tm.t_reply(202, "Later")
        return 1

    def relayed(self, msg: object, event_name: str = "") -> int:
        KSR.tm.t_relay()
        return 1

    def twice(self, msg: object, event_name: str = "") -> int:
        KSR.notice(f"test: resumed {KSR.pv.get('$ci')} in {KSR.pv.get('$pp')}\n")
        self.nsq_query_async("where", {"second": self.nsq_json("next", KSR.pv.get("$var(nqR)"))}, "answered")
        return 1

    def ksr_busy(self, msg: object) -> int:
        if self.nsq_publish("failures", {"Call-ID": KSR.pv.get("$ci"), "Status": str(KSR.pv.get("$T_reply_code"))}) > 0:
            KSR.tm.t_reply(480, "Published")
        return 1

    def ksr_timer(self, msg: object, name: str = "") -> int:
        self.nsq_publish("timers", {"Process": str(KSR.pv.get("$pp"))})
        return 1

    @event_route("nsq:consumer-event-test-publish")
    def publish(self, event: Event) -> None:
        self.nsq_publish("published", event.payload)

    @event_route("nsq:consumer-event-test-query")
    def query(self, event: Event) -> None:
        reply = self.nsq_query("where", event.payload)
        if reply is not None:
            self.nsq_publish("queried", reply)

    @event_route("nsq:consumer-event-test-async")
    def query_async(self, event: Event) -> None:
        code = self.nsq_query_async("where", event.payload, "answered")
        self.nsq_publish("queried", {"code": code, "reason": KSR.pv.get("$var(nqErr)")})


def mod_init() -> Kamailio:
    """Return the object that Kamailio calls."""
    return Kamailio()
