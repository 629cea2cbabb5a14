# SPDX-License-Identifier: GPL-2.0-or-later
"""One NOTIFY as the watcher records it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

from tests.support.documents import (
    DialogInfo,
    DocumentError,
    MessageSummary,
    Pidf,
    RegInfo,
    parse_dialog_info,
    parse_message_summary,
    parse_pidf,
    parse_reginfo,
)
from tests.support.sip_message import Headers, Request, SipError, parameters

D = TypeVar("D")

#: Event package to the type of its documents (RFC 4235, RFC 3856, RFC 3842, RFC 3680).
CONTENT_TYPES = {
    "dialog": "application/dialog-info+xml",
    "presence": "application/pidf+xml",
    "message-summary": "application/simple-message-summary",
    "reg": "application/reginfo+xml",
}

#: What phones show.
LAMPS = ("dialog", "presence", "message-summary")
#: Values of Subscription-State (RFC 6665 section 8.4, without extensions).
STATES = {"active", "pending", "terminated"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """A NOTIFY of a subscription.

    Attributes:
        received_at: when it came, seconds of `time.monotonic()`.
        cseq: its CSeq number.
        event: the event package.
        subscription_state: `active`, `pending` or `terminated`.
        state_params: parameters of Subscription-State, such as `expires` and `reason`.
        content_type: media type of the body, '' when there is none.
        body: the document, empty when there is none.
        headers: all headers, names in lower case.
    """

    received_at: float
    cseq: int
    event: str
    subscription_state: str
    state_params: Mapping[str, str]
    content_type: str
    body: bytes
    headers: Headers

    @classmethod
    def from_request(cls, request: Request, received_at: float) -> Self:
        """Read a NOTIFY.

        Raises:
            SipError: a header that RFC 6665 section 8.2 or RFC 3261 section 20.15 demands is missing or wrong.
        """
        state, _, state_params = request.require("Subscription-State").partition(";")
        if state not in STATES:
            raise SipError(f"no Subscription-State: {state!r}")
        request.require("Contact")  # RFC 6665 table 2; without it the watcher cannot refresh
        content_type = request.require("Content-Type") if request.body else ""
        return cls(
            received_at=received_at,
            cseq=request.cseq[0],
            event=request.require("Event").partition(";")[0].strip(),
            subscription_state=state,
            state_params=parameters(state_params),
            content_type=content_type.partition(";")[0].strip().lower(),
            body=request.body,
            headers=request.headers,
        )

    @property
    def terminated(self) -> bool:
        """Whether this NOTIFY ends the subscription."""
        return self.subscription_state == "terminated"

    @property
    def dialog_info(self) -> DialogInfo:
        """The body as a dialog-info document; raises `DocumentError` when it is none."""
        return self._document("dialog", parse_dialog_info)

    @property
    def pidf(self) -> Pidf:
        """The body as a presence document; raises `DocumentError` when it is none."""
        return self._document("presence", parse_pidf)

    @property
    def message_summary(self) -> MessageSummary:
        """The body as a message summary; raises `DocumentError` when it is none."""
        return self._document("message-summary", parse_message_summary)

    @property
    def reginfo(self) -> RegInfo:
        """The body as a registration document; raises `DocumentError` when it is none."""
        return self._document("reg", parse_reginfo)

    def describe(self) -> str:
        """Return what a failed test prints of it."""
        text = self.body.decode("utf-8", errors="replace")
        return f"NOTIFY {self.cseq} {self.event} {self.subscription_state} {self.content_type}\n{text}"

    def _document(self, package: str, parse: Callable[[bytes], D]) -> D:
        if self.content_type != CONTENT_TYPES[package]:
            raise DocumentError(f"the body is {self.content_type or 'empty'}, not {CONTENT_TYPES[package]}")
        return parse(self.body)
