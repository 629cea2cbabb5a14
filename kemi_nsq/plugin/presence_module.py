# SPDX-License-Identifier: GPL-2.0-or-later
"""What Kamailio's presence module does for us: it answers SUBSCRIBEs, and tells watchers. The caller holds the lock.

With subscriptions in memory (`subs_db_mode` 2) a refresh repeats a version that was used. It writes into the document
the version as it was before this NOTIFY is counted, and what answers a SUBSCRIBE or PUBLISH the one after
(presence/notify.c: `query_db_notify` and `notify`). So the first refresh after each of those repeats the version of
that NOTIFY, and a phone discards it (RFC 4235 section 4.1). It is sent twice then, and the second one counts. So is the
first one after a start, because nobody knows what was the last before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kemi_nsq.errors import UsageError

#: The htable of `kamailio/nsq.cfg` whose items are the presentities of which the last NOTIFY was that of a refresh.
REFRESHED = "nsqrefreshed"
#: The packages whose documents have a version that Kamailio counts; that of `reg` from 5.7 on (presence_reginfo, with
#: `aggregate_presentities`), and before that once more does no harm.
_WITH_VERSIONS = ("dialog", "reg")
#: Method to the function of the presence module that handles it.
_HANDLERS: Mapping[str, str] = {"SUBSCRIBE": "handle_subscribe", "PUBLISH": "handle_publish"}


class PresenceModule:
    """The presence module, if it is loaded.

    Args:
        ksr: Kamailio's module KSR.

    Attributes:
        in_memory: subscriptions are in its memory.
    """

    def __init__(self, ksr: Any) -> None:
        self._ksr = ksr
        self.in_memory = False

    def refresh(self, uri: str, package: str) -> bool:
        """Tell the watchers of a presentity; return whether that was accepted (0 on success, to KEMI)."""
        presence = getattr(self._ksr, "presence", None)
        if presence is None or presence.pres_refresh_watchers(uri, package, 1) < 0:
            return False
        if not self.in_memory or package not in _WITH_VERSIONS:
            return True
        item = _item(uri, package)
        if self._ksr.htable.sht_get(REFRESHED, item):
            return True
        if presence.pres_refresh_watchers(uri, package, 1) < 0:
            return False
        self._ksr.htable.sht_seti(REFRESHED, item, 1)
        return True

    def handle(self) -> bool:
        """Call `handle_subscribe` or `handle_publish`, which answer the request; return whether it was accepted.

        `handle_subscribe` returns 0, which would end a native route on the spot, where a From cannot be read
        (presence/subscribe.c, `handle_subscribe0`).

        Raises:
            UsageError: it is another request, or there is no presence module.
        """
        method = self._ksr.pv.get("$rm")
        handler = getattr(getattr(self._ksr, "presence", None), _HANDLERS.get(method, ""), None)
        if handler is None:
            raise UsageError(f"{method} cannot be handled: it is no SUBSCRIBE or PUBLISH, or presence.so is not loaded")
        taken = bool(handler() > 0)
        if self.in_memory and (item := self._just_told(method)):
            self._ksr.htable.sht_rm(REFRESHED, item)
        return taken

    def wanted_state(self) -> tuple[str, str] | None:
        """Read the Request-URI and Event of a SUBSCRIBE that begins; in one that goes on, the former is our Contact."""
        if self._ksr.pv.get("$rm") != "SUBSCRIBE" or self._ksr.pv.get("$tt"):
            return None
        return str(self._ksr.pv.get("$ru") or ""), self._event()

    def _just_told(self, method: str) -> str:
        """Return the item of the presentity of which the request has told somebody who goes on watching, '' for none.

        `$subs` is the subscription of the last SUBSCRIBE, null if that was refused at once; it has the presentity also
        where the Request-URI is our Contact (presence.c, `pres_subs_mode`).
        """
        get = self._ksr.pv.get
        if method == "PUBLISH":
            uri, package, goes_on = f"sip:{get('$rU')}@{get('$rd')}", self._event(), True
        else:
            uri, package, goes_on = str(get("$subs(uri)")), str(get("$subs(event)")), bool(get("$subs(expires)"))
        return _item(uri, package) if goes_on and package in _WITH_VERSIONS else ""

    def _event(self) -> str:
        return str(self._ksr.hdr.get("Event") or "").partition(";")[0].strip()


def _item(uri: str, package: str) -> str:
    """Name the item of a presentity: without case, as `sip_uri_match` of the presence module may compare."""
    return f"{package} {uri}".lower()
