# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of `redirect_kemi.cfg`: asks over NSQ where an INVITE shall go, and redirects it there."""

from __future__ import annotations

import KSR
import nsq  # noqa: F401  # lies beside this file, or is linked there; importing it makes the package known

# isort: split
from kemi_nsq import KemiNsq


class Redirect(KemiNsq):
    """What Kamailio calls."""

    def ksr_request_route(self, msg: object) -> int:
        """Answer OPTIONS, ask about INVITE, refuse the rest."""
        if KSR.is_method("OPTIONS"):
            KSR.sl.sl_send_reply(200, "OK")
        elif KSR.is_method("INVITE"):
            self.ask()
        elif not KSR.is_method("ACK"):
            KSR.sl.sl_send_reply(405, "Method Not Allowed")
        return 1

    def ask(self) -> None:
        """Ask, and let the INVITE go on in `answered`."""
        request = {
            "Event-Category": "call",
            "Event-Name": "route",
            "Call-ID": KSR.pv.get("$ci"),
            "From": KSR.pv.get("$fu"),
            "To": KSR.pv.get("$ru"),
        }
        if self.nsq_query_async("callevt", request, "answered") < 0:
            KSR.sl.sl_send_reply(503, "Service Unavailable")

    def answered(self, msg: object, event_name: str = "") -> int:
        """Redirect to where the answer says."""
        if reason := KSR.pv.get("$var(nqErr)"):
            KSR.warn(f"no answer for {KSR.pv.get('$ci')}: {reason}\n")
            KSR.tm.t_reply(504, "Server Time-out")
            return 1
        contact = self.nsq_json("Contact", KSR.pv.get("$var(nqR)"))
        if contact is None:
            KSR.tm.t_reply(404, "Not Found")
        else:
            KSR.pv.sets("$ru", contact)
            KSR.tm.t_reply(302, "Moved Temporarily")
        return 1


def mod_init() -> Redirect:
    """Return the object that Kamailio calls."""
    return Redirect()
