# SPDX-License-Identifier: GPL-2.0-or-later
"""A consumer in a thread of the test, and what it did."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import ClassVar, Self

from kemi_nsq.event import Event
from kemi_nsq.plugin.wiring import wire
from kemi_nsq.testing import FakeHost
from tests.support.nsqd import Nsqd
from tests.support.script import GivenHandlers
from tests.support.settings import settings
from tests.support.until import until

STOP_TIMEOUT_S = 15.0


class Consuming:
    """Runs a consumer whose one route, for all events, remembers them and does what the test says.

    Args:
        nsqd: the one to consume from; None when the settings name it.
        handler: what the route does with each event.
        msg_timeout: as the setting; 0 so that a test says by nsqd's own --msg-timeout how long it waits.
        values: further settings: `Consuming(nsqd, max_in_flight="2", topic_channel="a:b")`.

    Attributes:
        host: the fake SIP server.
        events: what the route was called with, in order.
        parts: what the consumer is made of.
    """

    _running: ClassVar[int] = 0

    def __init__(
        self,
        nsqd: Nsqd | None = None,
        handler: Callable[[Event], int | None] = lambda _: None,
        *,
        msg_timeout: str = "0",
        **values: str,
    ) -> None:
        if nsqd is not None:
            values["nsqd_tcp_address"] = nsqd.tcp_address
        self.host = self.new_host()
        self.events: list[Event] = []
        self._handler = handler
        chosen = settings(msg_timeout=msg_timeout, **values)
        self.parts = wire(self.host, chosen, GivenHandlers({"nsq:consumer-event": self._handle}), native=False)
        self._consumer = self.parts.supervisor
        self._thread = threading.Thread(target=self._consumer.run_forever, name="consumer under test")

    def __enter__(self) -> Self:
        type(self)._running += 1
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.stop()
        self._thread.join(STOP_TIMEOUT_S)
        assert not self._thread.is_alive()
        type(self)._running -= 1
        if not self._running:
            left = [thread.name for thread in threading.enumerate() if thread.name.startswith("nsq-")]
            assert left == [], "threads of a consumer outlived it"

    def new_host(self) -> FakeHost:
        """Return its host; one that does more is for a subclass to make."""
        return FakeHost()

    @property
    def lines(self) -> list[str]:
        """The log."""
        return [text for _, text in self.host.lines]

    @property
    def numbers(self) -> list[int]:
        """The field `n` of each event, in the order in which they came."""
        return [json.loads(event.payload)["n"] for event in list(self.events)]

    def wait_for(self, numbers: Iterable[int], *, timeout_s: float = 10.0) -> None:
        """Wait until each of these events has come at least once.

        Raises:
            AssertionError: one did not; the message holds the log.
        """
        wanted = set(numbers)
        try:
            until(lambda: wanted <= set(self.numbers), timeout_s=timeout_s, what="all events")
        except AssertionError as error:
            missing = sorted(wanted - set(self.numbers))
            raise AssertionError(f"{error}; missing {missing}; log: {self.lines}") from None

    def _handle(self, event: Event) -> int | None:
        self.events.append(event)
        return self._handler(event)


def numbered(number: int) -> bytes:
    """Write an event that `Consuming.numbers` reads."""
    return json.dumps({"n": number}).encode()
