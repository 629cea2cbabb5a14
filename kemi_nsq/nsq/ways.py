# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to publish to one nsqd: blocking, until a deadline.

A worker runs Python only while a route calls it, so nobody could answer heartbeats: the connection asks for none,
which nsqd allows to publishers. A connection is opened at the first use after the fork and kept. When nsqd has closed
it meanwhile, the message is sent once more over a new one; should nsqd have taken the first copy before it went away,
there are two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, NsqdRefused, ProtocolError
from kemi_nsq.names import Address
from kemi_nsq.nsq import httpapi
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq.sockets import BlockingSocket
from kemi_nsq.settings import Settings

#: Bytes in which the length of a message of a batch is written.
_SIZE_OF_SIZE = 4


class Outgoing(NamedTuple):
    """One message to publish; nsqd delivers it after `delay_ms`. Workers make one for each SIP request."""

    topic: str
    body: bytes
    delay_ms: int = 0


class Batch(NamedTuple):
    """Messages of one topic, which nsqd takes in this order, all or none.

    Attributes:
        topic: its name.
        sized: of each, the length of its body in four bytes, and the body (NSQ TCP protocol spec, MPUB).
    """

    topic: str
    sized: Sequence[bytes]

    def only(self) -> Outgoing:
        """Return the one message that it is."""
        (sized,) = self.sized
        return Outgoing(topic=self.topic, body=sized[_SIZE_OF_SIZE:])


class Way(Protocol):
    """One way to one nsqd."""

    def publish(self, message: Outgoing | Batch, deadline: float) -> None:
        """Publish and wait for nsqd's OK, until `time.monotonic()` is `deadline`."""

    def trial(self, deadline: float) -> None:
        """Find out, by a new connection, whether nsqd answers."""


#: Ways to several nsqd, in the order in which they are tried.
Ways: TypeAlias = list[tuple[Address, Way]]


class TcpWay:
    """Publishes over a TCP connection that is kept open."""

    def __init__(self, address: Address, node: str) -> None:
        self._address = address
        self._node = node
        self._socket: BlockingSocket | None = None
        self._pid = 0
        self._conversation: nsq.Conversation

    def publish(self, message: Outgoing | Batch, deadline: float) -> None:
        """Publish and wait for OK.

        Raises:
            ConnectionLost: nsqd cannot be reached.
            DeadlineExceeded: nsqd did not answer in time.
            NsqdRefused: nsqd did not take the message.
        """
        if self._pid != os.getpid():
            self._close()  # a script has published before the fork, and its children must not share the connection
        if self._socket is not None:
            try:
                return self._publish(message, deadline)
            except ConnectionLost:
                self._close()  # nsqd restarted, or dropped an idle connection: that says nothing about how it is now
            except BaseException:  # a late answer must not be taken for that of the next message
                self._close()
                raise
        try:
            self._open(deadline)
            self._publish(message, deadline)
        except BaseException:
            self._close()
            raise

    def trial(self, deadline: float) -> None:
        """Connect anew, and keep that connection; raises as `publish`."""
        self._close()
        try:
            self._open(deadline)
        except BaseException:
            self._close()
            raise

    def _publish(self, message: Outgoing | Batch, deadline: float) -> None:
        if isinstance(message, Batch):
            self._conversation.publish_many(message.topic, message.sized)
        elif message.delay_ms:
            self._conversation.publish_deferred(message.topic, message.body, message.delay_ms)
        else:
            self._conversation.publish(message.topic, message.body)
        said = self._exchange(deadline)
        if said == nsq.OK:  # nearly always; a worker waits for it
            return
        match self._event(said, deadline):
            case nsq.Refused(code=code, text=text, fatal=fatal):
                raise NsqdRefused(code, text, fatal=fatal)
            case nsq.Accepted():
                return
            case other:
                raise ProtocolError(f"nsqd answered a publish with {type(other).__name__}")

    def _open(self, deadline: float) -> None:
        self._socket, self._pid = BlockingSocket(self._address, deadline), os.getpid()
        self._conversation = nsq.Conversation(
            identify=nsq.identify(client_id=f"kamailio-{os.getpid()}", hostname=self._node, heartbeat_s=0)
        )
        if not isinstance(self._event(self._exchange(deadline), deadline), nsq.Identified):
            raise ProtocolError(f"{self._address} does not answer as nsqd")

    def _exchange(self, deadline: float) -> bytes:
        """Send what is to be sent, and return the first bytes that nsqd says to it: it says nothing unasked here."""
        assert self._socket is not None
        try:  # noqa: SIM105  # a context manager costs each publish half a microsecond
            self._socket.send_all(self._conversation.data_to_send(), deadline)
        except ConnectionLost:
            # What is too big nsqd refuses, and closes, before it has read all: why, is there to be read all the same.
            pass
        return self._socket.receive(deadline)

    def _event(self, said: bytes, deadline: float) -> nsq.NsqEvent:
        """Return what nsqd says, of which the first bytes are there."""
        assert self._socket is not None
        while True:
            self._conversation.receive_data(said)
            if (event := self._conversation.next_event()) is not None:
                return event
            if time.monotonic() >= deadline:  # or a nsqd that always has one more byte would never be late
                raise DeadlineExceeded("no answer in time")
            said = self._socket.receive(deadline)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class HttpWay:
    """Publishes through nsqd's HTTP interface, over a connection that is kept open."""

    def __init__(self, address: Address) -> None:
        self._client = httpapi.Client(address)
        #: It did not answer last. A frozen nsqd works off, when it goes on, each request that the kernel took for it:
        #: so it gets no copy of a message before it has answered something else.
        self._doubtful = False

    def publish(self, message: Outgoing | Batch, deadline: float) -> None:
        """Publish and wait for 200 OK; raises as `httpapi.Client.publish`."""
        try:
            if self._doubtful:
                self.trial(deadline)
            self._publish_again(message, deadline)
        except ConnectionLost:
            self._doubtful = True
            raise
        self._doubtful = False

    def _publish_again(self, message: Outgoing | Batch, deadline: float) -> None:
        if self._client.connected:
            try:
                return self._publish(message, deadline)
            except ConnectionLost:
                if time.monotonic() >= deadline:  # nsqd was too slow, and may have taken the message
                    raise
        self._publish(message, deadline)

    def trial(self, deadline: float) -> None:
        """Ask for `/ping` anew, and keep that connection; raises as `httpapi.Client.ping`."""
        self._client.close()
        self._client.ping(timeout_s=deadline - time.monotonic())

    def _publish(self, message: Outgoing | Batch, deadline: float) -> None:
        timeout_s = deadline - time.monotonic()
        if isinstance(message, Batch):
            self._client.publish_many(message.topic, message.sized, timeout_s=timeout_s)
            return
        self._client.publish(message.topic, message.body, timeout_s=timeout_s, delay_ms=message.delay_ms)


def ways(settings: Settings) -> Ways:
    """Return a way to each nsqd to which the settings have us publish; nothing is open yet."""
    if settings.publish_transport == "http":
        return [(address, HttpWay(address)) for address in settings.nsqd_address]
    return [(address, TcpWay(address, settings.node)) for address in settings.nsqd_tcp_address]
