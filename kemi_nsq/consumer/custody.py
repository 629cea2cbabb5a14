# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has a message: the main thread, whose route for it runs, or nobody, so that it may be given back to nsqd.

Two threads decide without a lock: a message is in a dictionary while nobody has it, and whoever takes it out has it.
That is one operation of Python's, which no other thread can come between.
"""

from __future__ import annotations

from kemi_nsq.consumer.items import Delivery


class Custody:
    """The messages of a consumer process that are not answered yet, and are in nobody's hands.

    `arrived` and `give_back` are for the I/O thread, the others for the main thread. Each thread has counts of its own,
    because to add is more than one operation; the difference of two may be old, and is good enough for a bound.

    Attributes:
        came: messages that have come so far.
    """

    def __init__(self) -> None:
        #: By identity: a message that comes again is another delivery, and one in here cannot go away.
        self._free: dict[int, Delivery] = {}
        self.came = self._came_bytes = self._begun = self._begun_bytes = 0

    @property
    def queued(self) -> int:
        """Messages in the queue between the threads, also those that were given back meanwhile."""
        return self.came - self._begun

    @property
    def queued_bytes(self) -> int:
        """Bytes of their bodies."""
        return self._came_bytes - self._begun_bytes

    def arrived(self, delivery: Delivery) -> None:
        """Note a new message, before it is handed over: the main thread must find it here."""
        self._free[id(delivery)] = delivery
        self.came += 1
        self._came_bytes += len(delivery.message.body)

    def begin(self, delivery: Delivery) -> bool:
        """Take a message from the queue; return whether it is still ours."""
        self._begun += 1
        self._begun_bytes += len(delivery.message.body)
        return self._free.pop(id(delivery), None) is not None

    def set_aside(self, delivery: Delivery) -> None:
        """Let go of a message whose route has run, while the routes of others run that are answered with it."""
        self._free[id(delivery)] = delivery

    def keep(self, delivery: Delivery) -> bool:
        """Take a message, to answer it; return whether it is still ours."""
        return self._free.pop(id(delivery), None) is not None

    def give_back(self) -> list[Delivery]:
        """Take all that nobody has: whoever does not get one any more leaves it alone."""
        taken = []
        while self._free:
            try:
                taken.append(self._free.popitem()[1])
            except KeyError:  # the main thread had the last one
                break
        return taken
