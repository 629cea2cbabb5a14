# SPDX-License-Identifier: GPL-2.0-or-later
"""One subscription of the watcher (RFC 6665 section 4.1): its SUBSCRIBEs, and the NOTIFYs that came."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Condition

from tests.support.notify import CONTENT_TYPES, Notify
from tests.support.sip_dialog import SipDialog, Target
from tests.support.sip_endpoint import OnFinal
from tests.support.sip_message import Request, Response, SipError

Send = Callable[[Request, Target, OnFinal], None]


class SubscribeRefused(AssertionError):
    """The server answered a SUBSCRIBE with an error.

    Attributes:
        status: the status code.
    """

    def __init__(self, response: Response) -> None:
        hint = "; the watcher has no password" if response.status in (401, 407) else ""
        super().__init__(f"SUBSCRIBE refused: {response.status} {response.reason}{hint}")
        self.status = response.status


class Subscription:
    """A subscription, made by `Watcher.subscribe`.

    Attributes:
        event: the event package.
        dialog: its dialog.
        expires_s: the lifetime that the server granted last, in seconds.
    """

    def __init__(self, *, event: str, dialog: SipDialog, send: Send, changed: Condition, errors: list[str]) -> None:
        self.event = event
        self.dialog = dialog
        self.expires_s = 0
        self._send = send
        self._changed = changed
        self._errors = errors
        self._notifies: list[Notify] = []
        self._finals: dict[int, Response | None] = {}

    @property
    def presentity(self) -> str:
        """The URI subscribed to."""
        return self.dialog.remote_uri

    @property
    def notifies(self) -> tuple[Notify, ...]:
        """The NOTIFYs so far, each once, in the order in which they came."""
        with self._changed:
            return tuple(self._notifies)

    def begin(self, expires_s: int) -> int:
        """Send a SUBSCRIBE, the first or one within the dialog, and return its CSeq number; see `finish`."""
        headers = (("event", self.event), ("accept", CONTENT_TYPES[self.event]), ("expires", str(expires_s)))
        with self._changed:
            request, target = self.dialog.request("SUBSCRIBE", headers)
            number = self.dialog.local_cseq
        self._send(request, target, lambda response: self._receive_final(number, response))
        return number

    def finish(self, number: int, *, timeout_s: float = 10.0) -> None:
        """Wait for the final response to the SUBSCRIBE with this CSeq number.

        Raises:
            SubscribeRefused: the server answered with an error.
            AssertionError: no answer came, or the peer broke the rules of SIP.
        """
        with self._changed:
            self._changed.wait_for(lambda: number in self._finals or self._errors, timeout_s)
            self._fail_on_errors()
            response = self._finals.get(number)
        assert response is not None, f"no answer to SUBSCRIBE {self.presentity} {self.event} within {timeout_s:g} s"
        if response.status >= 300:
            raise SubscribeRefused(response)

    def refresh(self, *, expires_s: int = 3600, timeout_s: float = 10.0) -> None:
        """Subscribe again within the dialog, and wait for the 2xx. Raises as `finish`."""
        self.finish(self.begin(expires_s), timeout_s=timeout_s)

    def unsubscribe(self, *, timeout_s: float = 10.0) -> Notify:
        """End the subscription and return the NOTIFY that says `terminated`. Raises as `finish` and `wait`."""
        self.refresh(expires_s=0, timeout_s=timeout_s)
        return self.wait(lambda notify: notify.terminated, what="the last NOTIFY", timeout_s=timeout_s)

    def wait(
        self, predicate: Callable[[Notify], object], *, what: str, timeout_s: float = 5.0, after: int = 0
    ) -> Notify:
        """Wait for a NOTIFY and return it: one that has come already, or one that comes.

        Args:
            predicate: says whether it is the one; an exception counts as "no".
            what: the wanted NOTIFY in words, for the message of the error.
            timeout_s: seconds to wait at most.
            after: look only at NOTIFYs after so many: `len(subscription.notifies)` for those still to come.

        Raises:
            AssertionError: it did not come, or the peer broke the rules of SIP; shows the NOTIFYs that came.
        """
        deadline = time.monotonic() + timeout_s
        looked_at, reason = after, ""
        with self._changed:
            while True:
                self._fail_on_errors()
                for notify in self._notifies[looked_at:]:
                    looked_at += 1
                    try:
                        if predicate(notify):
                            return notify
                    except Exception as error:
                        reason = f" (the last look raised {type(error).__name__}: {error})"
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise AssertionError(f"waited {timeout_s:g} s for {what}{reason}; {self._describe(after)}")

    def receive(self, request: Request) -> Response:
        """Record a NOTIFY of this subscription and return the answer; called in the endpoint's thread.

        Raises:
            SipError: the NOTIFY is not one that this subscription can have.
        """
        notify = Notify.from_request(request, time.monotonic())
        if notify.event != self.event:
            raise SipError(f"a NOTIFY of {notify.event!r} in a subscription to {self.event!r}")
        if notify.content_type not in ("", CONTENT_TYPES[self.event]):
            raise SipError(f"a body of {notify.content_type!r}, which the SUBSCRIBE did not accept")
        with self._changed:
            if self._notifies and self._notifies[-1].terminated:
                raise SipError("a NOTIFY after the one that said `terminated`")
            self.dialog.receive_request(request)
            self._notifies.append(notify)
            self._changed.notify_all()
        return request.response(200, "OK", contact=f"<{self.dialog.contact}>")

    def _receive_final(self, number: int, response: Response | None) -> None:
        with self._changed:
            if response is not None and response.status < 300:
                self.dialog.receive_success(response)
                self.expires_s = int(response.require("Expires"))  # mandatory: RFC 6665 section 4.2.1.1
            self._finals[number] = response
            self._changed.notify_all()

    def _fail_on_errors(self) -> None:
        assert not self._errors, "the peer broke the rules of SIP: " + "\n".join(self._errors)

    def _describe(self, after: int) -> str:
        seen = self._notifies[after:]
        return "\n".join((f"{len(seen)} NOTIFYs came for {self.presentity}:", *(each.describe() for each in seen)))
