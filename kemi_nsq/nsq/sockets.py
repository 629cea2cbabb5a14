# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets: connect by TCP, read and write until a deadline, and wake a thread that waits in a selector."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, ProtocolError
from kemi_nsq.names import Address
from kemi_nsq.nsq.resolver import SHARED, Place

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

RECEIVE_SIZE = 256 * 1024
#: A deadline in the past still gives the kernel one look; 0 would mean non-blocking.
_SHORTEST_S = 0.001
#: By how much the kernel's timers are late (kernel/time/timer.c): up to an eighth and two ticks of up to 10 ms.
_EARLY, _TICKS_S, _TOLERANCE_S = 7 / 8, 0.02, 0.001
_TIMEVAL = struct.Struct("ll")  # struct timeval: seconds, microseconds
#: nsqd's answers are short. A large buffer would be mapped and unmapped by each call.
_ANSWER_SIZE = 16 * 1024


#: A connected socket, for those who only pass it on.
Socket: TypeAlias = socket.socket
Result = TypeVar("Result")


def connect(address: Address, timeout_s: float) -> socket.socket:
    """Open a TCP connection to `address`, with small writes sent at once.

    Raises:
        ConnectionLost: the name does not resolve, nobody listens, or `timeout_s` passed, for all of it.
    """
    deadline = time.monotonic() + timeout_s
    try:
        places = SHARED.places(address, deadline)
    except ConnectionLost as error:
        raise ConnectionLost(f"{address}: {error}") from error
    reason = ""
    for position, place in enumerate(places):
        try:
            # One that does not answer must leave time for the others.
            return _tuned(_connected(place, _left_s(deadline) / (len(places) - position)))
        except ConnectionLost as error:
            reason = str(error)
    raise ConnectionLost(f"{address}: {reason}")


def _connected(place: Place, timeout_s: float) -> socket.socket:
    connecting = _made(place)
    try:
        connecting.settimeout(timeout_s)
        connecting.connect(place.sockaddr)
    except OSError as error:
        connecting.close()
        raise _lost(error) from error
    return connecting


def begin_connect(place: Place) -> socket.socket:
    """Begin to connect, without waiting: the socket becomes writable when it is known how that went.

    Raises:
        ConnectionLost: it is known now.
    """
    connecting = _made(place)
    connecting.setblocking(False)
    try:
        connecting.connect(place.sockaddr)
    except BlockingIOError:
        pass
    except OSError as error:
        connecting.close()
        raise _lost(error) from error
    return connecting


def finish_connect(connecting: socket.socket) -> socket.socket:
    """Return a socket that has connected, as `connect` does.

    Raises:
        ConnectionLost: it has not, and is closed.
    """
    if number := connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        connecting.close()
        raise ConnectionLost(os.strerror(number))
    return _tuned(connecting)


def _made(place: Place) -> socket.socket:
    try:
        return socket.socket(place.family, socket.SOCK_STREAM)
    except OSError as error:  # no more descriptors, or no IPv6 here
        raise _lost(error) from error


def _tuned(connected: socket.socket) -> socket.socket:
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connected


def _lost(error: OSError) -> ConnectionLost:
    return ConnectionLost(error.strerror or str(error))


def receive(connection: socket.socket) -> bytes:
    """Return what a non-blocking socket has; empty if there is nothing now.

    Raises:
        ConnectionLost: the peer closed the connection, or it broke.
    """
    try:
        data = connection.recv(RECEIVE_SIZE)
    except BlockingIOError:
        return b""
    except OSError as error:
        raise _lost(error) from error
    if not data:
        raise ConnectionLost("the peer closed the connection")
    return data


def send(connection: socket.socket, data: bytes) -> int:
    """Write what a socket takes now, without waiting, and return how many bytes that were.

    Raises:
        ConnectionLost: the connection broke.
    """
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise _lost(error) from error


def end_sending(connection: socket.socket) -> None:
    """Tell the peer that it has all, so that it closes the connection when it has read that.

    Raises:
        ConnectionLost: the connection broke.
    """
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        raise _lost(error) from error


class BlockingSocket:
    """A TCP connection to nsqd for a process that does one thing at a time: every call ends at a deadline.

    Args:
        address: where nsqd listens.
        deadline: `time.monotonic()` second until which connecting may take.

    Raises:
        ConnectionLost: nobody answers there, or not in time.
    """

    def __init__(self, address: Address, deadline: float) -> None:
        self._socket = connect(address, _left_s(deadline))
        self._socket.settimeout(None)
        self._receive = PatientCall(self._socket, partial(self._socket.recv, _ANSWER_SIZE))

    def fileno(self) -> int:
        """Return the descriptor, for who waits for several in a selector."""
        return self._socket.fileno()

    def send_all(self, data: bytes, deadline: float) -> None:
        """Write all of `data`.

        Raises:
            ConnectionLost: the connection broke.
            DeadlineExceeded: the peer did not take the bytes in time.
        """
        sent = send(self._socket, data)
        if sent == len(data):
            return
        self._socket.settimeout(_left_s(deadline))
        try:
            self._socket.sendall(memoryview(data)[sent:])
            self._socket.settimeout(None)
        except TimeoutError as error:
            raise DeadlineExceeded("no answer in time") from error
        except OSError as error:
            raise _lost(error) from error

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes, at least one.

        Raises:
            ConnectionLost: the peer closed the connection, or it broke.
            DeadlineExceeded: nothing came in time.
        """
        try:
            data = self._receive.until(deadline)
        except TimeoutError as error:
            raise DeadlineExceeded("no answer in time") from error
        except OSError as error:
            raise _lost(error) from error
        if not data:
            raise ConnectionLost("the peer closed the connection")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class PatientCall(Generic[Result]):
    """A receiving call of a blocking socket that ends at a deadline.

    The kernel's own timeout (SO_RCVTIMEO) costs nothing as long as it stays the same, but it is late. So it is set to
    end early, and Python's timeout, which is exact and costs system calls, waits for the rest.
    """

    def __init__(self, connection: socket.socket, call: Callable[[], Result]) -> None:
        self._socket = connection
        self._call = call
        self._timeout_s = 0.0

    def until(self, deadline: float) -> Result:
        """Return what the call returns; raises TimeoutError when `time.monotonic()` is `deadline`."""
        try:
            timeout_s = (deadline - time.monotonic() - _TICKS_S) * _EARLY
            if timeout_s > 0:
                if abs(timeout_s - self._timeout_s) > _TOLERANCE_S:
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(timeout_s))
                    self._timeout_s = timeout_s
                return self._call()
        except BlockingIOError:
            pass  # the kernel has waited long enough
        self._socket.settimeout(_left_s(deadline))
        try:
            return self._call()
        finally:
            self._socket.settimeout(None)


@dataclass(slots=True)
class Allowance:
    """What a conversation may still take: `time.monotonic()` until it ends, and bytes that the peer may send."""

    deadline: float = 0.0
    size: int = 0


class LimitedSocket(socket.socket):
    """A connection for a library that knows timeouts of single calls only: here all of them together have an end.

    `http.client` reads by `recv_into` and writes by `sendall`; whatever timeout it sets before is of no effect.
    """

    allowance: Allowance

    @classmethod
    def to(cls, address: Address, allowance: Allowance) -> LimitedSocket:
        """Connect; raises as `connect`. The allowance holds for what follows, too, and may be renewed."""
        limited = cls(fileno=connect(address, _left_s(allowance.deadline)).detach())
        limited.allowance = allowance
        return limited

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0, /) -> int:
        """Read what comes.

        Raises:
            DeadlineExceeded: the time is over, also if there is still something to read.
            ProtocolError: the peer sends more than it may.
        """
        try:
            self._limit()
            size = super().recv_into(buffer, nbytes, flags)
        except TimeoutError as error:
            raise DeadlineExceeded("timed out") from error
        self.allowance.size -= size
        if self.allowance.size < 0:
            raise ProtocolError("the answer is too large")
        return size

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Write all of `data`, unless the peer has answered before it has read all: what it says is there to be read.

        nsqd refuses so what is too large, and reads no more of it.

        Raises:
            DeadlineExceeded: the peer does not take it in time.
        """
        rest = memoryview(data).cast("B")
        looks = select.poll()
        looks.register(self, select.POLLIN | select.POLLOUT)
        try:
            while rest:
                self._limit()
                ready = looks.poll(1000 * (self.gettimeout() or 0.0))
                if not ready:
                    raise TimeoutError
                if not ready[0][1] & ~select.POLLIN:
                    return
                rest = rest[super().send(rest, flags) :]
        except TimeoutError as error:
            raise DeadlineExceeded("timed out") from error

    def _limit(self) -> None:
        left_s = self.allowance.deadline - time.monotonic()
        if left_s <= 0:  # or a peer that always has one more byte would never be late
            raise TimeoutError
        self.settimeout(left_s)


def timeval(seconds: float) -> bytes:
    """Return a time as setsockopt(2) takes it; never 0, which would mean for ever."""
    whole, part = divmod(max(seconds, _SHORTEST_S), 1)
    return _TIMEVAL.pack(int(whole), int(part * 1_000_000))


def _left_s(deadline: float) -> float:
    return max(deadline - time.monotonic(), _SHORTEST_S)


class Waker:
    """Lets one thread end another's wait in a selector: register `fileno()` for reading."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable after `wake`."""
        return self._here.fileno()

    def wake(self) -> None:
        """End the wait; several calls before `clear` count as one."""
        # A full buffer means that the waiting thread has been woken already; a closed one that it is gone.
        with contextlib.suppress(OSError):
            self._there.send(b"\0")

    def clear(self) -> None:
        """Forget the calls of `wake` so far."""
        with contextlib.suppress(BlockingIOError):
            self._here.recv(4096)

    def close(self) -> None:
        """Give back both descriptors."""
        self._here.close()
        self._there.close()
