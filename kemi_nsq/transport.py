# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets: connect to an nsqd, and wake a thread that waits in a selector. The only module that imports `socket`."""

from __future__ import annotations

import contextlib
import socket

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.settings import Address

RECEIVE_SIZE = 256 * 1024


def host_name() -> str:
    """Return the name of this machine, as the operating system has it."""
    return socket.gethostname()


def connect(address: Address, timeout_s: float) -> socket.socket:
    """Open a TCP connection to `address`, with small writes sent at once.

    Raises:
        ConnectionLost: the name does not resolve, nobody listens, or `timeout_s` passed.
    """
    try:
        connection = socket.create_connection(address, timeout=timeout_s)
    except OSError as error:
        raise ConnectionLost(f"{address}: {error.strerror or error}") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection


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
        raise ConnectionLost(error.strerror or str(error)) from error
    if not data:
        raise ConnectionLost("the peer closed the connection")
    return data


def send(connection: socket.socket, data: bytes) -> int:
    """Write what a non-blocking socket takes now and return how many bytes that were.

    Raises:
        ConnectionLost: the connection broke.
    """
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise ConnectionLost(error.strerror or str(error)) from error


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
