# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing from a SIP worker: blocking, with one deadline for the whole call.

A worker runs Python only while a route calls it, so nobody could answer heartbeats: the connection asks for none,
which nsqd allows to publishers. A connection is opened at the first use after the fork and kept. When nsqd has closed
it meanwhile, the message is sent once more over a new one; should nsqd have taken the first copy before it went away,
there are two.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, NsqdRefused, ProtocolError, TransientError
from kemi_nsq.names import Address
from kemi_nsq.nsq import httpapi
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq.limits import breaker_delay_s
from kemi_nsq.nsq.sockets import BlockingSocket
from kemi_nsq.settings import Settings

#: What nsqd answers when the message itself is wrong; another nsqd would answer the same.
_MESSAGE_IS_WRONG = frozenset(
    {"E_BAD_MESSAGE", "E_BAD_TOPIC", "E_INVALID", "MSG_TOO_BIG", "MSG_EMPTY", "INVALID_TOPIC", "INVALID_DEFER"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to publish; nsqd delivers it after `delay_ms`."""

    topic: str
    body: bytes
    delay_ms: int = 0


class Way(Protocol):
    """One way to one nsqd."""

    def publish(self, message: Outgoing, deadline: float) -> None:
        """Publish and wait for nsqd's OK, until `time.monotonic()` is `deadline`."""

    def trial(self, deadline: float) -> None:
        """Find out, by a new connection, whether nsqd answers."""


class TcpWay:
    """Publishes over a TCP connection that is kept open."""

    def __init__(self, address: Address, node: str) -> None:
        self._address = address
        self._node = node
        self._socket: BlockingSocket | None = None
        self._conversation: nsq.Conversation

    def publish(self, message: Outgoing, deadline: float) -> None:
        """Publish and wait for OK.

        Raises:
            ConnectionLost: nsqd cannot be reached.
            DeadlineExceeded: nsqd did not answer in time.
            NsqdRefused: nsqd did not take the message.
        """
        if self._socket is not None:
            # nsqd restarted, or dropped an idle connection: that says nothing about how it is now.
            with contextlib.suppress(ConnectionLost):
                return self._publish_or_close(message, deadline)
        self._publish_or_close(message, deadline)

    def trial(self, deadline: float) -> None:
        """Connect anew, and keep that connection; raises as `publish`."""
        self._close()
        try:
            self._open(deadline)
        except BaseException:
            self._close()
            raise

    def _publish_or_close(self, message: Outgoing, deadline: float) -> None:
        try:
            self._publish(message, deadline)
        except BaseException:  # a late answer must not be taken for that of the next message
            self._close()
            raise

    def _publish(self, message: Outgoing, deadline: float) -> None:
        if self._socket is None:
            self._open(deadline)
        if message.delay_ms:
            self._conversation.publish_deferred(message.topic, message.body, message.delay_ms)
        else:
            self._conversation.publish(message.topic, message.body)
        match self._answer(deadline):
            case nsq.Refused(code=code, text=text, fatal=fatal):
                raise NsqdRefused(code, text, fatal=fatal)
            case nsq.Accepted():
                return
            case other:
                raise ProtocolError(f"nsqd answered a publish with {type(other).__name__}")

    def _open(self, deadline: float) -> None:
        self._socket = BlockingSocket(self._address, deadline)
        self._conversation = nsq.Conversation(
            identify=nsq.identify(client_id=f"kamailio-{os.getpid()}", hostname=self._node, heartbeat_s=0)
        )
        if not isinstance(self._answer(deadline), nsq.Identified):
            raise ProtocolError(f"{self._address} does not answer as nsqd")

    def _answer(self, deadline: float) -> nsq.NsqEvent:
        """Send what is to be sent and return the next thing that nsqd says."""
        assert self._socket is not None
        # What is too big nsqd refuses, and closes, before it has read all of it: why, is there to be read all the same.
        with contextlib.suppress(ConnectionLost):
            self._socket.send_all(self._conversation.data_to_send(), deadline)
        while True:  # nothing is left of the last answer: nsqd says nothing unasked here
            self._conversation.receive_data(self._socket.receive(deadline))
            if (event := self._conversation.next_event()) is not None:
                return event

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class HttpWay:
    """Publishes through nsqd's HTTP interface, over a connection that is kept open."""

    def __init__(self, address: Address) -> None:
        self._client = httpapi.Client(address)

    def publish(self, message: Outgoing, deadline: float) -> None:
        """Publish and wait for 200 OK; raises as `httpapi.Client.publish`."""
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
        self._client.ping(timeout_s=_left_s(deadline))

    def _publish(self, message: Outgoing, deadline: float) -> None:
        self._client.publish(message.topic, message.body, timeout_s=_left_s(deadline), delay_ms=message.delay_ms)


def _left_s(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)  # `requests` takes no timeout of 0


@dataclass(slots=True, kw_only=True)
class _Nsqd:
    """One nsqd and its circuit breaker: after a failure it is left alone until `closed_until`."""

    address: Address
    way: Way
    failures: int = 0
    closed_until: float = 0.0


class Publisher:
    """Publishes to the first nsqd that takes the message.

    Args:
        settings: addresses, transport and timeout.
        clock: monotonic seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = settings.publish_timeout
        self._clock = clock
        self._nsqds = _nsqds(settings)

    def publish(self, message: Outgoing, *, until: float = math.inf) -> None:
        """Publish one message and wait until a nsqd has taken it.

        Args:
            message: what to publish.
            until: second of the clock at which the caller gives up, if that is before NSQ_PUBLISH_TIMEOUT is over.

        Raises:
            NsqdRefused: nsqd said that the message is wrong.
            ConnectionLost: no nsqd took it; the text says why, for each.
        """
        now = self._clock()
        deadline = min(now + self._timeout_s, until)
        reasons = []
        candidates = [nsqd for nsqd in self._nsqds if now >= nsqd.closed_until]
        for position, nsqd in enumerate(candidates):
            # One that is frozen must leave time for the others.
            share = (deadline - now) / (len(candidates) - position)
            try:
                nsqd.way.publish(message, now + share)
            except TransientError as error:
                if isinstance(error, NsqdRefused) and error.code in _MESSAGE_IS_WRONG:
                    raise
                now = self._clock()
                nsqd.failures += 1
                nsqd.closed_until = now + breaker_delay_s(nsqd.failures)
                reasons.append(_reason(nsqd, error))
            else:
                nsqd.failures = 0
                return
        waiting = [
            f"{nsqd.address} left alone after {nsqd.failures} failures"
            for nsqd in self._nsqds
            if nsqd not in candidates
        ]
        raise ConnectionLost("; ".join(reasons + waiting))

    def trial(self) -> None:
        """Find out whether a nsqd answers, those that are left alone included; the one that does no longer is.

        Raises:
            ConnectionLost: none answers; the text says why, for each.
        """
        now = self._clock()
        deadline = now + self._timeout_s
        reasons = []
        for position, nsqd in enumerate(self._nsqds):
            try:
                nsqd.way.trial(now + (deadline - now) / (len(self._nsqds) - position))
            except TransientError as error:
                now = self._clock()
                reasons.append(_reason(nsqd, error))
            else:
                nsqd.failures, nsqd.closed_until = 0, 0.0
                return
        raise ConnectionLost("; ".join(reasons))


def _reason(nsqd: _Nsqd, error: TransientError) -> str:
    return f"{nsqd.address} {error}" if isinstance(error, DeadlineExceeded) else str(error)


def _nsqds(settings: Settings) -> Sequence[_Nsqd]:
    if settings.publish_transport == "http":
        return [_Nsqd(address=address, way=HttpWay(address)) for address in settings.nsqd_address]
    return [_Nsqd(address=address, way=TcpWay(address, settings.node)) for address in settings.nsqd_tcp_address]
