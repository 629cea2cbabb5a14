# SPDX-License-Identifier: GPL-2.0-or-later
"""A gate whose time the test sets, and whose trials say what the test says."""

from __future__ import annotations

from collections.abc import Mapping

from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.errors import DatabaseError
from kemi_nsq.host import Host
from kemi_nsq.names import Subscription
from kemi_nsq.runtime.page import Page
from tests.support.clock import SetClock


class FakeValve:
    """Remembers what it was told: a topic and its limit, None for as usual."""

    def __init__(self) -> None:
        self.told: list[tuple[Subscription, int | None]] = []

    def pause(self, subscription: Subscription) -> None:
        self.told.append((subscription, 0))

    def resume(self, subscription: Subscription, limit: int | None = None) -> None:
        self.told.append((subscription, limit))


class TestedGate(Gate):
    """A `Gate` with fakes around it.

    Attributes:
        clock: its time.
        failing: what fails when it is tried, and why.
        tried: what was tried, and when.
        page: what it shows.
    """

    __test__ = False

    def __init__(self, host: Host, *, backoff_max_s: float = 0, page: Page | None = None) -> None:
        self.clock = SetClock()
        self.page = page or Page()
        self.failing: dict[Kind, str] = {}
        self.tried: list[tuple[Kind, float]] = []
        trials: Mapping[Kind, Trial] = {kind: Trial(self, kind) for kind in Kind}
        super().__init__(host, self.page, trials, backoff_max_s=backoff_max_s, clock=self.clock.clock)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what is due in it, when it is due."""
        end = self.clock.monotonic + seconds
        while (due := self.next_due()) is not None and due <= end:
            self.clock.monotonic = max(self.clock.monotonic, due)
            self.tick()
        self.clock.monotonic = end


class Trial:
    """Says whether something fails."""

    def __init__(self, gate: TestedGate, kind: Kind) -> None:
        self._gate, self._kind = gate, kind

    def __call__(self) -> None:
        self._gate.tried.append((self._kind, self._gate.clock.monotonic))
        if self._kind in self._gate.failing:
            raise DatabaseError(self._gate.failing[self._kind])
