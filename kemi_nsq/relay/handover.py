# SPDX-License-Identifier: GPL-2.0-or-later
"""The worker's end: hands messages to the relay of its Kamailio, over a connection that is kept.

A call waits for nothing as long as the relay reads. Where it does not, because it does not run yet or holds all that it
may, the first call that meets this waits for a moment; those that follow fail at once, until one succeeds: a worker
that waited each time would answer no SIP request any more.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from kemi_nsq.errors import ConnectionLost, RunFolderError
from kemi_nsq.relay.frames import frame
from kemi_nsq.runtime.place import SOCKET, Place

#: The relay's socket in the runtime folder.
NAME = f"relay{SOCKET}"
#: How often a relay is looked for that does not run yet.
_LOOK_S = 0.01
#: What the kernel holds for the relay while that waits for nsqd, if it may (socket(7), net.core.wmem_max).
_BUFFER_SIZE = 1024 * 1024
_NO_RELAY = "no relay runs: nsq.cfg starts it"
_FULL = "the relay takes no more: it holds as much as it may, and no nsqd takes that"


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

    def put(self, topic: str, body: bytes) -> None:
        """Hand a message over. When this returns, the kernel or the relay has it, behind all that this worker gave.

        Raises:
            ConnectionLost: the relay does not take it, or there is none.
        """
        data = frame(topic, body)
        if self._pid != os.getpid():
            self.close()  # a script has published before the fork, and its children must not share the connection
            self._pid = os.getpid()
        try:
            self._send(data)
        except ConnectionLost:
            self._patient = False
            raise
        self._patient = True

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, data: bytes) -> None:
        if self._socket is not None:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:  # the relay has begun anew
                self.close()
        if self._socket is None:
            self._socket, sent = self._connect(), 0
        if sent != len(data):
            self._send_rest(self._socket, memoryview(data)[sent:], begun=sent > 0)

    def _send_rest(self, connection: socket.socket, rest: memoryview, *, begun: bool) -> None:
        """Send what the relay's buffer had no room for. What has begun is worth waiting for, or it is no frame."""
        deadline = time.monotonic() + (self._patience_s if begun or self._patient else 0.0)
        try:
            while rest:
                connection.settimeout(max(deadline - time.monotonic(), 0.0))
                sent = connection.send(rest)
                rest, begun = rest[sent:], True
            connection.setblocking(False)
        except OSError as error:
            if begun or not isinstance(error, (TimeoutError, BlockingIOError)):
                self.close()  # the relay throws away what is no whole frame
            else:
                connection.setblocking(False)
            raise ConnectionLost(_FULL) from error

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

    @staticmethod
    def _connected(place: Place) -> socket.socket:
        with suppress(RunFolderError):  # which the relay tells; somebody may have removed the folder, and it is back
            place.restore()
        place.trust(NAME)
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
            connecting.setblocking(False)
            connecting.connect(place.address(NAME))
        except BaseException:
            connecting.close()
            raise
        return connecting
