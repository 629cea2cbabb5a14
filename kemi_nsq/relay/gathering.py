# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay's end of the sockets: takes what workers hand over, as far as there is room for it."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.nsq.sockets import Waker, receive
from kemi_nsq.relay.backlog import Backlog
from kemi_nsq.relay.frames import FrameReader
from kemi_nsq.relay.handover import NAME
from kemi_nsq.runtime.listening import ListeningSocket
from kemi_nsq.runtime.place import Place

#: Workers that may have connected at the same moment, as all of them do after the start.
_CONNECTING = 1024
#: A connection that had so much has more in a moment.
_MUCH = 64 * 1024


class Gathering:
    """The sockets.

    While the backlog is full nothing is read: the kernel's buffers fill, and the workers learn it.

    Args:
        place: the runtime folder.
        backlog: where messages go.
        largest: bytes that a body may have.
        took: is told how many messages came.
        say: takes what the operator shall read.

    Attributes:
        much: what came last is not all that is on its way.
    """

    def __init__(
        self,
        place: Place,
        backlog: Backlog,
        largest: int,
        *,
        took: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self.much = False
        self._backlog = backlog
        self._largest = largest
        self._took = took
        self._say = say
        self._waker = Waker()
        self._door = ListeningSocket(place, NAME, _CONNECTING)
        self._door_number = -1
        self._peers: dict[socket.socket, FrameReader] = {}
        self._all, self._woken = selectors.DefaultSelector(), selectors.DefaultSelector()
        for selector in (self._all, self._woken):
            selector.register(self._waker, selectors.EVENT_READ)

    @property
    def peers(self) -> int:
        """How many connections there are."""
        return len(self._peers)

    def keep_open(self) -> None:
        """See that workers find the socket, and that somebody looks at it.

        Raises:
            ConnectionLost: that cannot be.
        """
        if self._door.keep_open():
            self._leave_door()
        if self._door_number < 0:
            self._door_number = self._door.fileno()
            self._all.register(self._door_number, selectors.EVENT_READ)

    def wake(self) -> None:
        """End a wait of `read`, from anywhere."""
        self._waker.wake()

    def read(self, wait_s: float) -> bool:
        """Take what has come, after at most so many seconds; return whether there was something."""
        ready = (self._woken if self._backlog.full else self._all).select(wait_s)
        came = self.much = False
        for key, _ in ready:
            match key.fileobj:
                case Waker():
                    self._waker.clear()
                case socket.socket() as peer:
                    came |= self._receive(peer)
                case _:
                    if not self._accept():
                        self._say("a worker cannot be accepted: has the relay no descriptors left (ulimit -n)?")
                        self._leave_door()
        return came

    def count_left(self, over: Callable[[], bool]) -> int:
        """Read what the sockets have, and throw it away; return how many messages that were.

        Args:
            over: whether to stop.
        """
        self._accept()
        count = 0
        for peer, reader in self._peers.items():
            with suppress(ConnectionLost):
                while not over() and (data := receive(peer)):
                    count += len(reader.feed(data))
            count += reader.begun
        self._took(count)
        return count

    def close(self) -> None:
        """Give all back."""
        for peer in list(self._peers):
            self._forget(peer)
        self._door.close()
        self._waker.close()
        for selector in (self._all, self._woken):
            selector.close()

    def _accept(self) -> int:
        """Accept all that have connected, and return how many."""
        accepted = 0
        while (peer := self._door.accept(0.0)) is not None:
            accepted += 1
            peer.setblocking(False)
            self._peers[peer] = FrameReader(self._largest)
            self._all.register(peer, selectors.EVENT_READ)
        return accepted

    def _leave_door(self) -> None:
        """Look there no more until `keep_open` is called."""
        if self._door_number >= 0:
            self._all.unregister(self._door_number)
            self._door_number = -1

    def _receive(self, peer: socket.socket) -> bool:
        try:
            data = receive(peer)
        except ConnectionLost:
            self._forget(peer)
            return True
        self.much |= len(data) >= _MUCH
        reader = self._peers[peer]
        pieces = reader.feed(data)
        self._backlog.add(pieces)
        self._took(len(pieces))
        if reader.problem:
            self._say(f"a process of ours hands over what is no message, and is not heard any more: {reader.problem}")
            self._forget(peer)
        return True

    def _forget(self, peer: socket.socket) -> None:
        self._all.unregister(peer)
        del self._peers[peer]
        peer.close()
