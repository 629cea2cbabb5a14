# SPDX-License-Identifier: GPL-2.0-or-later
"""The worker's end: hands messages to the relay of its Kamailio, over a connection that is kept.

A call waits for nothing as long as the relay reads. Where it does not, because it does not run yet or holds all that it
may, the first call that meets this waits for a moment; those that follow fail at once, until one succeeds: a worker
that waited each time would answer no SIP request any more.

The kernel takes a small frame whole or not at all, and a larger one in parts (af_unix.c, `unix_stream_sendmsg`). A
frame that has begun goes on, however late, over the same connection, and what comes after it follows: a new connection
would overtake what the old one holds.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import time
from contextlib import suppress

from kemi_nsq.errors import ConnectionLost, RunFolderError
from kemi_nsq.relay.frames import frame
from kemi_nsq.runtime.place import SOCKET, Place

#: The relay's socket in the runtime folder.
NAME = f"relay{SOCKET}"
#: How often a relay is looked for that does not run yet, and whether it has read what is in the kernel's buffer.
_LOOK_S = 0.005
#: What the kernel holds for the relay while that waits for nsqd, if it may (socket(7), net.core.wmem_max).
_BUFFER_SIZE = 1024 * 1024
#: Bytes that the kernel takes as one piece.
_WHOLE = 32 * 1024
_INT = struct.Struct("i")
_NO_RELAY = "no relay runs: nsq.cfg starts it"
_FULL = "the relay takes no more now: it holds as much as it may, or waits for a nsqd that does not answer"


class Handover:
    """One worker's connection to the relay; opened at the first use after the fork.

    Args:
        place: the runtime folder; None where there is none, and then no relay.
        patience_s: seconds that a call may wait.
    """

    def __init__(self, place: Place | None, patience_s: float) -> None:
        self._place = place
        self._patience_s = patience_s
        self._patient = True
        self._socket: socket.socket | None = None
        self._pid = 0
        self._room = 0
        #: What is left of a frame that has begun, and was said to be taken.
        self._rest = memoryview(b"")

    def put(self, topic: str, body: bytes) -> None:
        """Hand a message over. When this returns, the kernel or the relay has it, behind all that this worker gave.

        Of a message that is larger than the kernel's buffer a part may follow with the next call.

        Raises:
            ConnectionLost: the relay does not take it, or there is none.
        """
        data = frame(topic, body)
        if self._pid != os.getpid():
            self.close()  # a script has published before the fork, and its children must not share the connection
            self._pid = os.getpid()
        try:
            self._put(data)
        except ConnectionLost:
            self._patient = False
            raise
        self._patient = not self._rest

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rest = memoryview(b"")

    def _put(self, data: bytes) -> None:
        if self._socket is not None:
            try:
                return self._send(self._socket, data)
            except OSError:  # the relay has begun anew
                self.close()
        self._socket = self._connect()
        try:
            self._send(self._socket, data)
        except OSError as error:
            self.close()
            raise ConnectionLost(f"{NAME}: {error.strerror}") from error

    def _send(self, connection: socket.socket, data: bytes) -> None:
        """Send a frame behind what is left of the last one.

        Raises:
            ConnectionLost: there is no room for it, and nothing of it was sent.
            OSError: the connection is gone.
        """
        if not self._rest and len(data) <= _WHOLE:  # nearly always
            with suppress(BlockingIOError):
                sent = connection.send(data)
                if sent < len(data):
                    self._rest = memoryview(data)[sent:]
                return
        deadline = time.monotonic() + (self._patience_s if self._patient else 0.0)
        while not (self._flushed(connection) and self._has_room(connection, len(data))):
            if time.monotonic() >= deadline:
                raise ConnectionLost(_FULL)
            time.sleep(_LOOK_S)
        self._rest = memoryview(data)
        while not self._flushed(connection) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)

    def _flushed(self, connection: socket.socket) -> bool:
        """Send on what has begun; return whether nothing of it is left."""
        with suppress(BlockingIOError):
            while self._rest:
                self._rest = self._rest[connection.send(self._rest) :]
        return not self._rest

    def _has_room(self, connection: socket.socket, size: int) -> bool:
        """Whether the kernel's buffer takes a frame whole, or is empty (unix(7), SIOCOUTQ); it counts some overhead."""
        (used,) = _INT.unpack(fcntl.ioctl(connection, termios.TIOCOUTQ, _INT.pack(0)))
        return not used or used + 2 * size <= self._room

    def _connect(self) -> socket.socket:
        if self._place is None:
            raise ConnectionLost(_NO_RELAY)
        deadline = time.monotonic() + (self._patience_s if self._patient else 0.0)
        while True:
            try:
                return self._connected(self._place)
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise ConnectionLost(f"{_NO_RELAY} ({error.strerror})") from error
            time.sleep(_LOOK_S)

    def _connected(self, place: Place) -> socket.socket:
        with suppress(RunFolderError):  # which the relay tells; somebody may have removed the folder, and it is back
            place.restore()
        place.trust(NAME)
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
            self._room = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            connecting.setblocking(False)
            connecting.connect(place.address(NAME))
        except BaseException:
            connecting.close()
            raise
        return connecting
