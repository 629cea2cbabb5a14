# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain, blocking reader of one topic at one nsqd, for the command line; Kamailio's consumer is `consumer`."""

from __future__ import annotations

import time
from contextlib import suppress

from kemi_nsq.errors import DeadlineExceeded, NsqdRefused, TransientError
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq.sockets import BlockingSocket

CONNECT_TIMEOUT_S = 5.0
#: How long nsqd may take to have read what was answered.
_LEAVE_TIMEOUT_S = 5.0
#: And how long after that a last message may come.
_LAST_S = 0.05
_FOR_EVER_S = 365 * 86400.0


class Reader:
    """Takes messages. Those that are neither finished nor given back are nsqd's again after the message timeout.

    Args:
        address: TCP address of nsqd.
        subscription: topic and channel.
        ready: messages that nsqd may hand out before one is answered; 0 until `take` is called.
        msg_timeout_s: the message timeout; nsqd's own by default.

    Attributes:
        address: as given.
        max_rdy: the most that nsqd allows for `ready`.

    Raises:
        ConnectionLost, DeadlineExceeded: nsqd does not answer.
        NsqdRefused: nsqd refused the subscription.
    """

    def __init__(
        self, address: Address, subscription: Subscription, *, ready: int = 1, msg_timeout_s: float = 0
    ) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        self.address, self.max_rdy = address, 0
        self._failed = 0
        self._socket = BlockingSocket(address, deadline)
        identify = nsq.identify(client_id="kemi-nsq", unbuffered=True, msg_timeout_s=msg_timeout_s)
        self._conversation = nsq.Conversation(identify=identify, subscription=subscription)
        try:
            self._subscribe(deadline)
            self.take(ready)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, for who waits for several readers: when it can be read, `messages` does not wait."""
        return self._socket.fileno()

    def take(self, ready: int) -> None:
        """Let nsqd hand out so many messages, or as many as it allows, before one is answered."""
        self._conversation.ready(min(ready, self.max_rdy))
        self._flush(time.monotonic() + CONNECT_TIMEOUT_S)

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
                self.finish(event)
                return event

    def messages(self, deadline: float) -> list[nsq.Message]:
        """Wait for what nsqd says next, and return the messages that came with it, if any.

        Raises:
            DeadlineExceeded: `time.monotonic()` is `deadline`, and nsqd has said nothing.
            ConnectionLost: nsqd went away.
        """
        found: list[nsq.Message] = []
        event: nsq.NsqEvent | None = self._next_event(deadline)
        while event is not None:
            if isinstance(event, nsq.Message):
                found.append(event)
            event = self._event_here()
        self._flush(time.monotonic() + CONNECT_TIMEOUT_S)  # the answer to a heartbeat
        return found

    def finish(self, message: nsq.Message) -> None:
        """Have nsqd forget a message (FIN)."""
        self._conversation.finish(message.message_id)
        self._flush(time.monotonic() + CONNECT_TIMEOUT_S)

    def keep(self) -> None:
        """Restart the timeout of all that is in flight (TOUCH), and answer nsqd's heartbeats."""
        for message_id in self._conversation.in_flight:
            self._conversation.touch(message_id)
        with suppress(DeadlineExceeded):
            self.messages(time.monotonic())

    def leave(self) -> int | None:
        """Give back all that is in flight, and close the connection when nsqd has read that.

        Returns:
            How many messages could not be finished: they had timed out, and will come again. None if nsqd went away, so
            that what was finished may come again, too.
        """
        deadline = time.monotonic() + _LEAVE_TIMEOUT_S
        try:
            self._conversation.ready(0)
            self._give_back()
            # The answer tells that nsqd has read all before it: what is closed earlier takes it along (tcp(7), RST).
            self._conversation.close()
            while not isinstance(self._next_event(deadline), nsq.Accepted):
                self._give_back()  # it was on its way
            # nsqd sends by another thread, which may have had one in its hands that no answer waits for.
            with suppress(DeadlineExceeded):
                while self.messages(time.monotonic() + _LAST_S):
                    self._give_back()
            self._give_back()
            self._flush(deadline)
        except TransientError:
            return None  # nsqd gives them to the next reader all the same, after the message timeout
        finally:
            self.close()
        return self._failed

    def close(self) -> None:
        """Close the connection. What is in flight waits for its timeout."""
        self._socket.close()

    def _subscribe(self, deadline: float) -> None:
        while not isinstance(event := self._next_event(deadline), nsq.Subscribed):
            if isinstance(event, nsq.Identified):
                self.max_rdy = event.max_rdy

    def _give_back(self) -> None:
        for message_id in self._conversation.in_flight:
            self._conversation.requeue(message_id, 0)

    def _next_event(self, deadline: float) -> nsq.NsqEvent:
        self._flush(deadline)
        while (event := self._event_here()) is None:
            if time.monotonic() >= deadline:
                raise DeadlineExceeded("no answer in time")
            self._conversation.receive_data(self._socket.receive(deadline))
        return event

    def _event_here(self) -> nsq.NsqEvent | None:
        """Return the next event of what was received, None if that is not all of one."""
        event = self._conversation.next_event()
        if isinstance(event, nsq.Refused):
            if event.fatal:
                raise NsqdRefused(event.code, event.text, fatal=True)
            self._failed += event.code == "E_FIN_FAILED"
        return event

    def _flush(self, deadline: float) -> None:
        if data := self._conversation.data_to_send():
            self._socket.send_all(data, deadline)
