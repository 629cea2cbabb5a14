# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process of a simulated world has around it: its Kamailio, its ways to nsqd, the file of the outbox.

Each asks the process at its points whether it goes on (`process.Process.point`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemi_nsq.clock import Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, OutboxError
from kemi_nsq.host import Level
from kemi_nsq.names import Subscription
from kemi_nsq.nsq.outbox import Kept, Outbox
from kemi_nsq.nsq.ways import Batch, Outgoing
from kemi_nsq.runtime.page import Page
from kemi_nsq.settings import Settings
from kemi_nsq.testing import FakeHost
from tests.simulate.nsqd import ModelNsqd

if TYPE_CHECKING:
    from tests.simulate.process import Process


class Crash(BaseException):
    """The process ends here and now."""


class Host(FakeHost):
    """The Kamailio of a process."""

    def __init__(self, process: Process, clock: Clock) -> None:
        super().__init__()
        self.page = Page(clock=clock)
        self._process = process

    def log(self, level: Level, text: str) -> None:
        """Keep what an operator would read."""
        self._process.world.log(f"{self._process.name} {level.value}: {text}")

    def count(self, counter: Counter, number: int = 1) -> None:
        """Count; a process that has ended does nothing any more."""
        self._process.alive()
        super().count(counter, number)

    def try_lock(self, name: str) -> bool | None:
        """Take the lock, which no other process has: they take their turns where it is free."""
        self._process.point("lock")
        return super().try_lock(name)

    def unlock(self, name: str) -> None:
        """Give it back."""
        super().unlock(name)
        if not self._process.dead:
            self._process.point("unlock")

    def refresh_watchers(self, presentity_uri: str, package: str) -> bool:
        """Have the presence module send NOTIFYs."""
        self._process.point("notify")
        if self._process.refuses or self._process.world.database != "works":
            self._process.refuses = False
            return False
        self._process.world.presence.refresh(presentity_uri, package)
        return True


class ModelWay:
    """The way of a process to an nsqd."""

    def __init__(self, process: Process, nsqd: ModelNsqd) -> None:
        self._process = process
        self._nsqd = nsqd

    def publish(self, message: Outgoing | Batch, deadline: float) -> None:
        """Publish, unless the nsqd is away; as `TcpWay.publish`. No process here has a relay, and no batches."""
        assert isinstance(message, Outgoing)
        self.trial(deadline)
        self._process.point("publish")
        world = self._process.world
        world.put(self._nsqd, message.topic, message.body, message.delay_ms / 1000)
        self._process.point("published")

    def trial(self, deadline: float) -> None:
        """Find out whether it answers."""
        world = self._process.world
        if self._nsqd.mode == "down":
            raise ConnectionLost("connection refused")
        if self._nsqd.mode == "frozen":
            world.advance(deadline - world.now, mains=False)
            raise DeadlineExceeded("no answer in time")


class FaultyOutbox(Outbox):
    """The outbox on its real file, which can sometimes not be written."""

    def __init__(self, process: Process, settings: Settings, clock: Clock) -> None:
        super().__init__(
            settings.outbox,
            max_messages=settings.outbox_messages,
            max_bytes=settings.outbox_bytes,
            say=process.world.log,
            clock=clock,
        )
        self._process = process

    def keep(self, message: Outgoing) -> None:
        """Put a message in."""
        self._look("keep")
        super().keep(message)
        self._process.world.kept.append(message.body)

    def remove(self, kept: Kept) -> None:
        """Take a message out."""
        self._look("remove")
        super().remove(kept)
        self._process.world.kept.remove(kept.message.body)
        self._process.point("removed")

    def _look(self, what: str) -> None:
        self._process.point(what)
        if self._process.world.outbox != "works":
            raise OutboxError("the outbox: attempt to write a readonly database")


class Desk:
    """No query is asked here."""

    subscription = Subscription("replies", "none")

    def take_reply(self, body: bytes) -> None:
        """Take none."""

    def expire(self, now: float) -> None:
        """Expire none."""

    def next_deadline(self) -> float | None:
        """Have none."""
        return None
