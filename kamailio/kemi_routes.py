# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of `kemi.cfg`: a presence server that is fed from NSQ, written in Python."""

from __future__ import annotations

import KSR
import nsq  # noqa: F401  # lies beside this file; importing it makes the package known

# isort: split
from kemi_nsq import KemiNsq

#: A reply from here on is the last.
_FINAL = 200


class Kamailio(KemiNsq):
    """What Kamailio calls. Each method that it calls returns an int."""

    def ksr_request_route(self, msg: object) -> int:
        """Answer OPTIONS, handle SUBSCRIBE, refuse the rest."""
        if KSR.maxfwd.process_maxfwd(10) < 0:
            KSR.sl.sl_send_reply(483, "Too Many Hops")
        elif KSR.is_method("OPTIONS"):
            KSR.sl.sl_send_reply(200, "OK")
        elif not KSR.is_method("SUBSCRIBE"):
            KSR.sl.sl_send_reply(405, "Method Not Allowed")
        elif not KSR.is_myself_ruri():
            KSR.sl.sl_send_reply(404, "Not Served Here")
        elif self.authenticated():
            self.subscribe()
        return 1

    def authenticated(self) -> bool:
        """Trust loopback; ask everybody else for an account in the table `subscriber`."""
        if KSR.pv.get("$si").startswith("127."):
            return True
        realm = KSR.pv.get("$fd")
        if KSR.auth_db.auth_check(realm, "subscriber", 1) < 0:
            KSR.auth.auth_challenge(realm, 0)
            return False
        KSR.auth.consume_credentials()
        return True

    def subscribe(self) -> None:
        """Hand a SUBSCRIBE to the presence module."""
        made = KSR.tm.t_newtran()
        if made < 0:
            KSR.sl.sl_reply_error()
        if made <= 0:  # 0: it is a repeated request, which tm has answered
            return
        if self.nsq_pua_handle() < 0 and KSR.pv.get("$T(reply_code)") < _FINAL:
            KSR.tm.t_reply(500, "Server Internal Error")  # what the presence module refuses it has answered
        KSR.tm.t_release()


def mod_init() -> Kamailio:
    """Return the object that Kamailio calls."""
    return Kamailio()
