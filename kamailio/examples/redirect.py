# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of `redirect_kemi.cfg`: each INVITE is a question on the topic `routes`, the reply says where to go."""

from __future__ import annotations

import os
import sys

# nsq.py lies beside this file in /etc/kamailio, and one folder above it in the project.
sys.path.append(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

import KSR
import nsq  # noqa: F401  # importing it makes the package known

# isort: split
from kemi_nsq import KemiNsq


class Kamailio(KemiNsq):
    """What Kamailio calls. Each method that it calls returns an int."""

    def ksr_request_route(self, msg: object) -> int:
        """Answer OPTIONS, ask where an INVITE shall go, refuse the rest."""
        if KSR.is_method("OPTIONS"):
            KSR.sl.sl_send_reply(200, "OK")
        elif KSR.is_method("ACK"):
            KSR.tm.t_check_trans()
        elif KSR.is_method("CANCEL"):
            if KSR.tm.t_check_trans() > 0:
                KSR.tm.t_relay()
        elif not KSR.is_method("INVITE"):
            KSR.sl.sl_send_reply(405, "Method Not Allowed")
        # Repeated requests end here; and a transaction is there to be answered, whatever happens.
        elif KSR.tm.t_newtran() > 0:
            question = {"User": KSR.pv.get("$rU"), "From-User": KSR.pv.get("$fU")}
            if self.nsq_query_async("routes", question, "redirect") < 0:
                KSR.tm.t_reply(503, "Service Unavailable")
        return 1

    def redirect(self, msg: object, event_name: str = "") -> int:
        """Go on with the reply, or without. This runs in a consumer process."""
        reply = KSR.pv.get("$var(nqR)")
        if not reply:
            KSR.warn(f"no route for {KSR.pv.get('$rU')}: {KSR.pv.get('$var(nqErr)')}\n")
            KSR.tm.t_reply(504, "Server Time-out")
            return 1
        contact = self.nsq_json("Contact", reply)
        if contact is None:
            KSR.tm.t_reply(404, "Not Found")
            return 1
        KSR.hdr.append_to_reply(f"Contact: <{contact}>\r\n")
        KSR.tm.t_reply(302, "Moved Temporarily")
        return 1


def mod_init() -> Kamailio:
    """Return the object that Kamailio calls."""
    return Kamailio()
