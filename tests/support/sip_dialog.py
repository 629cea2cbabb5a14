# SPDX-License-Identifier: GPL-2.0-or-later
"""A SIP dialog as the subscriber sees it (RFC 3261 section 12, RFC 6665 section 4.4.1). No socket, no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.support.sip_message import Address, Headers, Request, Response, SipError

#: `sip:user@192.0.2.1:5060;params`; a host name is not looked up.
_NUMERIC_URI = re.compile(r"sips?:(?:[^@;?]*@)?(?P<host>\d+\.\d+\.\d+\.\d+)(?::(?P<port>\d+))?(?:[;?]|$)")

Target = tuple[str, int]


@dataclass(slots=True, kw_only=True)
class SipDialog:
    """The state of a dialog that our SUBSCRIBE creates.

    Attributes:
        call_id: its Call-ID.
        local_uri: our URI, in From of what we send.
        local_tag: our tag.
        remote_uri: the peer's URI, in To of what we send.
        contact: our Contact.
        server: where a request goes that no route sends elsewhere.
        remote_target: the peer's Contact; `remote_uri` before the dialog exists.
        remote_tag: the peer's tag, None before the dialog exists.
        route_set: values of Record-Route, in the order in which our requests visit them.
        local_cseq: number of our last request.
        remote_cseq: number of the peer's last request.
    """

    call_id: str
    local_uri: str
    local_tag: str
    remote_uri: str
    contact: str
    server: Target
    remote_target: str
    remote_tag: str | None = None
    route_set: list[str] = field(default_factory=list)
    local_cseq: int = 0
    remote_cseq: int = 0

    def request(self, method: str, headers: Headers) -> tuple[Request, Target]:
        """Return our next request (RFC 3261 section 12.2.1.1), without Via, and where to send it."""
        self.local_cseq += 1
        to_tag = "" if self.remote_tag is None else f";tag={self.remote_tag}"
        dialog_headers = (
            *(("route", route) for route in self.route_set),
            ("from", f"<{self.local_uri}>;tag={self.local_tag}"),
            ("to", f"<{self.remote_uri}>{to_tag}"),
            ("call-id", self.call_id),
            ("cseq", f"{self.local_cseq} {method}"),
            ("contact", f"<{self.contact}>"),
        )
        return Request(method=method, uri=self.remote_target, headers=dialog_headers + headers), self._next_hop()

    def receive_success(self, response: Response) -> None:
        """Learn from a 2xx to our SUBSCRIBE, which may come before or after the first NOTIFY (RFC 3261 section 12.1.2).

        Raises:
            SipError: it lacks Contact or the To-tag, or its tag is of another dialog.
        """
        route_set = response.every("Record-Route")[::-1]
        self._learn(response.tag("To"), route_set, response.require("Contact"))

    def receive_request(self, request: Request) -> None:
        """Learn from a request of the peer (RFC 3261 sections 12.1.1 and 12.2.2).

        Raises:
            SipError: it is of another dialog, lacks Contact, or its CSeq is not above the last one.
        """
        if request.tag("To") != self.local_tag:
            raise SipError(f"the To-tag is {request.tag('To')!r}, ours is {self.local_tag!r}")
        number, _ = request.cseq
        if number <= self.remote_cseq:
            # Another transaction, so this is no retransmission: the peer reuses a number or is out of order.
            raise SipError(f"CSeq {number} after CSeq {self.remote_cseq} in one dialog")
        self._learn(request.tag("From"), request.every("Record-Route"), request.require("Contact"))
        self.remote_cseq = number

    def _learn(self, remote_tag: str | None, route_set: list[str], contact: str) -> None:
        if not remote_tag:
            raise SipError("the peer has no tag")
        if self.remote_tag is None:
            # The route set is fixed by the message that creates the dialog; later ones change only the target.
            self.remote_tag, self.route_set = remote_tag, route_set
        if remote_tag != self.remote_tag:
            raise SipError(f"the peer's tag is {remote_tag!r}, in this dialog it was {self.remote_tag!r}")
        self.remote_target = Address.parse(contact).uri

    def _next_hop(self) -> Target:
        uri = Address.parse(self.route_set[0]).uri if self.route_set else self.remote_target
        found = _NUMERIC_URI.match(uri)
        return self.server if found is None else (found["host"], int(found["port"] or 5060))
