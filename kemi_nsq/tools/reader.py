# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain, blocking reader of one topic at one nsqd, for the command line; Kamailio's consumer is `consumer`."""

from __future__ import annotations

import time

from kemi_nsq.errors import DeadlineExceeded, NsqdRefused
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq.sockets import BlockingSocket

CONNECT_TIMEOUT_S = 5.0
_FOR_EVER_S = 365 * 86400.0


class Reader:
    """Takes one message after the other.

    Args:
        address: TCP address of nsqd.
        subscription: topic and channel.

    Raises:
        ConnectionLost, DeadlineExceeded: nsqd does not answer.
        NsqdRefused: nsqd refused the subscription.
    """

    def __init__(self, address: Address, subscription: Subscription) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        self._socket = BlockingSocket(address, deadline)
        self._conversation = nsq.Conversation(
            identify=nsq.identify(client_id="kemi-nsq", unbuffered=True), subscription=subscription
        )
        while not isinstance(self._next_event(deadline), nsq.Subscribed):
            pass
        self._conversation.ready(1)
        self._flush(deadline)

    def next_message(self, timeout_s: float = _FOR_EVER_S) -> nsq.Message:
        """Wait for a message and finish it.

        Raises:
            DeadlineExceeded: none came in time.
            ConnectionLost: nsqd went away.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            event = self._next_event(deadline)
            if isinstance(event, nsq.Message):
                self._conversation.finish(event.message_id)
                self._flush(deadline)
                return event

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _next_event(self, deadline: float) -> nsq.NsqEvent:
        self._flush(deadline)
        while (event := self._conversation.next_event()) is None:
            if time.monotonic() >= deadline:
                raise DeadlineExceeded("nothing came in time")
            self._conversation.receive_data(self._socket.receive(deadline))
        if isinstance(event, nsq.Refused) and event.fatal:
            raise NsqdRefused(event.code, event.text, fatal=True)
        return event

    def _flush(self, deadline: float) -> None:
        if data := self._conversation.data_to_send():
            self._socket.send_all(data, deadline)
