# SPDX-License-Identifier: GPL-2.0-or-later
"""How a message travels from a worker to the relay.

A frame is the length of the topic in a byte, the topic, the length of the body in four bytes, and the body. The last
two are together what NSQ wants of each message of an MPUB (NSQ TCP protocol spec), so the relay cuts them out as one.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from kemi_nsq.errors import NameRefused
from kemi_nsq.names import topic_name

_SIZE = struct.Struct(">l")


class Piece(NamedTuple):
    """One message as it came.

    Attributes:
        topic: its name.
        sized: the length of the body in four bytes, and the body.
    """

    topic: str
    sized: bytes


def frame(topic: str, body: bytes) -> bytes:
    """Return the frame of a message for a topic that NSQ accepts."""
    return b"".join((_head(topic), _SIZE.pack(len(body)), body))


@lru_cache
def _head(topic: str) -> bytes:
    name = topic.encode("ascii")
    return bytes((len(name),)) + name


class FrameReader:
    """Cuts the bytes of one connection into messages.

    Args:
        largest: bytes that a body may have.

    Attributes:
        problem: why nothing that follows can be read: it is no frame. '' as long as it can.
    """

    def __init__(self, largest: int) -> None:
        self.problem = ""
        self._largest = largest
        self._rest = bytearray()

    @property
    def begun(self) -> bool:
        """Whether a frame has begun that is not complete."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[Piece]:
        """Take bytes as they came, in pieces of any size, and return the messages that are complete."""
        if not self._rest:  # nearly always: then nothing is copied but what is cut out
            pieces, at = self._cut(data)
            self._rest += memoryview(data)[at:]
            return pieces
        self._rest += data
        pieces, at = self._cut(self._rest)
        del self._rest[:at]
        return pieces

    def _cut(self, data: bytes | bytearray) -> tuple[list[Piece], int]:
        """Return the messages that are complete, and how many bytes they had."""
        pieces, at, end = list[Piece](), 0, len(data)
        while at < end:
            size_at = at + 1 + data[at]
            if size_at + _SIZE.size > end:
                break
            (size,) = _SIZE.unpack_from(data, size_at)
            topic = _topic(bytes(data[at + 1 : size_at]))
            if topic is None or not 0 <= size <= self._largest:
                name = bytes(data[at + 1 : size_at])
                self.problem = f"{size} bytes for {name!r}; 0 to {self._largest} for a topic are allowed"
                break
            next_at = size_at + _SIZE.size + size
            if next_at > end:
                break
            pieces.append(Piece(topic, bytes(data[size_at:next_at])))
            at = next_at
        return pieces, at


@lru_cache
def _topic(name: bytes) -> str | None:
    try:
        return topic_name(name.decode("ascii", "replace"))
    except NameRefused:
        return None
