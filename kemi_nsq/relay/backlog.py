# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay holds: messages in the order in which they came, of a bounded number and size, a batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kemi_nsq.nsq.ways import Batch
from kemi_nsq.relay.frames import Piece

#: What the relay may hold in memory: some seconds of a busy node, for which nsqd may be away.
MOST_MESSAGES = 50_000
MOST_BYTES = 64 * 1024 * 1024
#: Of one MPUB. Its body is well below nsqd's --max-body-size (5 MiB), unless a single message is larger than this.
BATCH_MESSAGES = 500
BATCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Room:
    """How much a backlog may hold."""

    messages: int = MOST_MESSAGES
    size: int = MOST_BYTES


class Backlog:
    """Messages that wait to be sent.

    Those of one topic leave in the order in which they came; two topics have no order (nor have they in NSQ).

    Attributes:
        messages: how many there are.
        size: their bytes.
    """

    def __init__(self, room: Room = Room()) -> None:
        self._room = room
        self._waiting: deque[Piece] = deque()
        self._batches: deque[Batch] = deque()
        self.messages = 0
        self.size = 0

    @property
    def full(self) -> bool:
        """Whether no more should be added."""
        return self.messages >= self._room.messages or self.size >= self._room.size

    def add(self, pieces: Sequence[Piece]) -> None:
        """Put messages behind all others."""
        self._waiting += pieces
        self.messages += len(pieces)
        self.size += sum([len(piece.sized) for piece in pieces])

    def first(self) -> Batch | None:
        """Return what is to be sent next, again and again until it is done; None if there is nothing."""
        if not self._batches:
            self._form()
        return self._batches[0] if self._batches else None

    def done(self, count: int) -> None:
        """Forget the first `count` messages of what `first` returns."""
        batch = self._batches.popleft()
        self.messages -= count
        self.size -= sum(map(len, batch.sized[:count]))
        if rest := batch.sized[count:]:
            self._batches.appendleft(Batch(batch.topic, rest))

    def split(self) -> None:
        """Have each message of what `first` returns be sent by itself."""
        batch = self._batches.popleft()
        self._batches.extendleft(Batch(batch.topic, [each]) for each in reversed(batch.sized))

    def _form(self) -> None:
        """Cut the next messages into a batch for each topic."""
        topics: dict[str, list[bytes]] = {}
        count = size = 0
        while self._waiting and count < BATCH_MESSAGES:
            topic, sized = self._waiting[0]
            if count and size + len(sized) > BATCH_BYTES:  # a larger message goes by itself
                break
            self._waiting.popleft()
            topics.setdefault(topic, []).append(sized)
            count, size = count + 1, size + len(sized)
        self._batches.extend(Batch(topic, sized) for topic, sized in topics.items())
