# SPDX-License-Identifier: GPL-2.0-or-later
"""A SIP watcher over UDP: what a phone with lamps does (RFC 6665), made to be strict and to tell what it saw.

The way of a NOTIFY: `sip_endpoint` (socket, transactions) -> `sip_message.parse` -> `Watcher` (which subscription?)
-> `Subscription.receive` (`sip_dialog`: may it be?) -> `notify.Notify` -> `documents`, when somebody looks.

Example::

    with Watcher(kamailio.sip_target) as watcher:
        lamp = watcher.subscribe("sip:alice@example.com", "dialog")
        notify = lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="an early dialog")
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from itertools import islice
from threading import Condition
from types import TracebackType
from typing import Self

from tests.support.ports import LOOPBACK
from tests.support.sip_dialog import SipDialog, Target
from tests.support.sip_endpoint import SipEndpoint
from tests.support.sip_message import Request, Response
from tests.support.subscription import Subscription

#: SUBSCRIBEs without an answer that `subscribe_many` allows at once: few enough for the server's receive buffer.
WINDOW = 32


class Watcher:
    """Any number of subscriptions on one socket.

    Leaving the context raises AssertionError when the server broke the rules of SIP, whatever the test looked at.

    Attributes:
        errors: what the server did against the rules of SIP, in words.
    """

    def __init__(self, server: Target, *, uri: str = "sip:watcher@example.com") -> None:
        """Open the socket.

        Args:
            server: host and port of the SIP server, which gets every SUBSCRIBE outside a dialog.
            uri: who subscribes, the From of each SUBSCRIBE.
        """
        self._server = server
        self._uri = uri
        self._changed = Condition()
        self._subscriptions: dict[str, Subscription] = {}
        self.errors: list[str] = []
        self._endpoint = SipEndpoint(self._receive, self._record_error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._endpoint.close()
        if error is None:
            assert not self.errors, "the server broke the rules of SIP: " + "\n".join(self.errors)

    @property
    def target(self) -> Target:
        """Host and port of the watcher's socket."""
        return self._endpoint.address

    def subscribe(self, presentity: str, event: str, *, expires_s: int = 3600, timeout_s: float = 10.0) -> Subscription:
        """Subscribe, and wait for the 2xx; the first NOTIFY may come later.

        Args:
            presentity: the URI to watch.
            event: `dialog`, `presence` or `message-summary`.
            expires_s: the lifetime to ask for, in seconds; 0 asks for the state once.
            timeout_s: seconds to wait for the answer at most.

        Raises:
            SubscribeRefused: the server answered with an error.
            AssertionError: no answer came, or the server broke the rules of SIP.
        """
        subscription = self._new(presentity, event)
        subscription.finish(subscription.begin(expires_s), timeout_s=timeout_s)
        return subscription

    def subscribe_many(
        self, presentities: Iterable[str], event: str, *, expires_s: int = 3600, timeout_s: float = 60.0
    ) -> list[Subscription]:
        """Subscribe to many presentities, in the order given. Takes the arguments of `subscribe`, raises as it."""
        deadline = time.monotonic() + timeout_s
        made = []
        waiting = iter(presentities)
        while batch := [self._new(each, event) for each in islice(waiting, WINDOW)]:
            for subscription, number in [(each, each.begin(expires_s)) for each in batch]:
                subscription.finish(number, timeout_s=deadline - time.monotonic())
            made += batch
        return made

    def _new(self, presentity: str, event: str) -> Subscription:
        dialog = SipDialog(
            call_id=secrets.token_hex(12),
            local_uri=self._uri,
            local_tag=secrets.token_hex(4),
            remote_uri=presentity,
            contact=f"sip:watcher@{LOOPBACK}:{self.target[1]}",
            server=self._server,
            remote_target=presentity,
        )
        subscription = Subscription(
            event=event,
            dialog=dialog,
            send=self._endpoint.send,
            changed=self._changed,
            errors=self.errors,
        )
        with self._changed:
            self._subscriptions[dialog.call_id] = subscription
        return subscription

    def _receive(self, request: Request) -> Response:
        if request.method != "NOTIFY":
            return request.response(405, "Method Not Allowed")
        with self._changed:
            subscription = self._subscriptions.get(request.call_id)
        if subscription is None:
            self._record_error(f"a NOTIFY for no subscription of this watcher, Call-ID {request.call_id}")
            return request.response(481, "Subscription Does Not Exist")
        return subscription.receive(request)

    def _record_error(self, error: str) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()  # who waits for a NOTIFY learns of it now
