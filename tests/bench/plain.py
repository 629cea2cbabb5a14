# SPDX-License-Identifier: GPL-2.0-or-later
"""The baseline: NSQ over a plain blocking socket, with gnsq's codec and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from gnsq import protocol

from kemi_nsq.names import Address

_SIZE, _TYPE, _MESSAGE_HEADER = 4, 8, 34
_TIMEOUT_S = 20.0
_RECEIVE_SIZE = 65536


class PlainSocket:
    """One connection to nsqd that asks for no heartbeat, or reads one topic.

    Args:
        address: where nsqd listens.
        topic: a topic to read; without one the connection is for publishing.
        ready: messages that nsqd may have in flight here.
    """

    def __init__(self, address: Address, topic: str = "", *, ready: int = 1000) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # By the kernel: Python's own timeout would poll before each call, and the baseline would not be the fastest.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, int(_TIMEOUT_S).to_bytes(8, "little") + bytes(8))
        self._received = b""
        self._read_to = 0
        identify = {"heartbeat_interval": 60000, "output_buffer_size": -1} if topic else {"heartbeat_interval": -1}
        self.send(protocol.MAGIC_V2 + protocol.identify(identify))
        assert self.frame()[1] == b"OK"
        if topic:
            self.send(protocol.subscribe(topic, "replies#ephemeral" if topic.endswith("#ephemeral") else "bench"))
            assert self.frame()[1] == b"OK"
            self.send(protocol.ready(ready))

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self._socket.sendall(data)

    def frame(self) -> tuple[int, bytes]:
        """Wait for one frame and return its type and body.

        Raises:
            OSError: nothing came in 20 seconds, or nsqd went away.
        """
        while (frame := self._cut()) is None:
            self.fill()
        return frame

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield the frames that are complete, without waiting."""
        while (frame := self._cut()) is not None:
            yield frame

    def fill(self) -> None:
        """Wait for bytes and keep them."""
        data = self._socket.recv(_RECEIVE_SIZE)
        if not data:
            raise ConnectionError("nsqd closed the connection")
        self._received = self._received[self._read_to :] + data
        self._read_to = 0

    def message(self) -> tuple[bytes, bytes]:
        """Wait for one message and return its id and body."""
        kind, body = self.frame()
        while kind != protocol.FRAME_TYPE_MESSAGE:
            assert body == protocol.HEARTBEAT, body
            self.send(protocol.nop())
            kind, body = self.frame()
        return body[10:26], body[26:]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _cut(self) -> tuple[int, bytes] | None:
        received, start = self._received, self._read_to
        end = start + _SIZE + int.from_bytes(received[start : start + _SIZE], "big")
        if len(received) < start + _TYPE or len(received) < end:
            return None
        self._read_to = end
        return received[start + 7], received[start + _TYPE : end]


def drain(address: Address, topic: str, count: int) -> list[bytes]:
    """Read `count` messages of a topic, which must be there, and return their bodies."""
    reader = PlainSocket(address, topic)
    bodies = []
    try:
        for _ in range(count):
            message_id, body = reader.message()
            reader.send(protocol.finish(message_id))
            bodies.append(body)
    finally:
        reader.close()
    return bodies
